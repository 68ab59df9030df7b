"""The page of `--view`: an asset while it trains, the step's cameras, three buttons.

The training's thread only copies arrays on its device, and only where somebody looks;
a thread of this page's fetches, packs and sends them. What that takes of the machine is
bounded whatever the asset's size: after the work of a second the thread rests for so
many that it was at work SHARE of the time.
"""

from __future__ import annotations

import sys
import threading
import time
from html import escape
from typing import Any, Literal

import jax

from sdsjax.live.scene import Frusta, Stand
from sdsjax.live.server import Server
from sdsjax.live.shapes import shape_of
from sdsjax.representations.gaussians import Gaussians
from sdsjax.training.snapshots import Snapshot

SHARE = 0.03
# A field is looked at on a grid of so many nodes a side, more when it is done.
RESOLUTION = 48


class Monitor:
    """Listens to a run, shows it in a page, and says what its buttons ask for.

    every: steps between two pictures, where sending them takes no longer; a context,
    in which its thread runs.
    """

    def __init__(
        self,
        server: Server,
        *,
        every: int,
        steps: int,
        prompt: str = "",
        bound: float = 1.0,
    ):
        self._server, self._every, self._steps = server, every, steps
        self._bound = bound
        self._stand, self._frusta = Stand(server, "/asset"), Frusta(server)
        self._latest: Snapshot | None = None
        self._shown = -1  # the step that was handed over last
        self._rests_until = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self._paused = False
        self._asked: list[Literal["save", "stop"]] = []
        self._add_panel(prompt)
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    def _add_panel(self, prompt: str) -> None:
        gui = self._server.gui
        gui.add_markdown(f"**{escape(prompt)}**")
        self._text = gui.add_markdown("compiling")
        self._bar = gui.add_progress_bar(0.0)
        self._pause = gui.add_button("Pause")
        save, stop = gui.add_button("Save"), gui.add_button("Stop")
        cameras = gui.add_checkbox("cameras of the step", initial_value=True)
        self._pause.on_click(lambda _: self._turn())
        save.on_click(lambda _: self._asked.append("save"))
        stop.on_click(lambda _: self._asked.append("stop"))
        cameras.on_update(lambda _: self._frusta.set_visible(cameras.value))

    def _turn(self) -> None:
        self._paused = not self._paused
        self._pause.label = "Go on" if self._paused else "Pause"

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def on_event(
        self, name: str, content: dict
    ) -> Literal["pause", "save", "stop"] | None:
        """Takes an event of the run; after a step, returns what the buttons ask for."""
        if name == "advance":
            if self._is_due(content["step"]):
                self._hand_over(content["snapshot"]())
            if self._asked:
                return self._asked.pop(0)
            return "pause" if self._paused else None
        if name in ("step", "checkpoint", "finished"):
            self._tell(name, content)
        return None

    def _is_due(self, step: int) -> bool:
        if step == self._shown or not self._server.get_clients():
            return False
        if self._paused or step == self._steps or self._shown < 0:
            return True
        rested = time.monotonic() >= self._rests_until
        return rested and step - self._shown >= self._every

    def _hand_over(self, snapshot: Snapshot) -> None:
        self._shown = snapshot.step
        with self._changed:
            self._latest = snapshot
            # until it is sent, and then as long as that asks for
            self._rests_until = float("inf")
            self._changed.notify()

    def _send_all(self) -> None:
        first = True
        while True:
            with self._changed:
                while self._latest is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                snapshot, self._latest = self._latest, None
            assert snapshot is not None
            try:
                spent = self._send(snapshot)
            except Exception as error:  # whatever it is, the run goes on
                why = " ".join(f"{type(error).__name__}: {error}".split())
                print(f"sdsjax: warning: the page stops: {why}", file=sys.stderr)
                return
            if first:  # which compiles
                first, spent = False, 0.0
            self._rests_until = time.monotonic() + spent * (1 / SHARE - 1)

    def _send(self, snapshot: Snapshot) -> float:
        """Sends a picture; returns the seconds that it kept this machine at work."""
        asset = jax.block_until_ready(snapshot.asset)
        # a field is looked at by other threads, for which this one waits
        clock = time.thread_time if isinstance(asset, Gaussians) else time.monotonic
        began = clock()
        shape = shape_of(asset, resolution=RESOLUTION, bound=self._bound)
        self._stand.show(shape)
        spent = clock() - began
        self._frusta.show(snapshot.cameras())
        return spent

    def _tell(self, name: str, content: dict[str, Any]) -> None:
        step = content["step"]
        self._bar.value = 100.0 * min(step / max(self._steps, 1), 1.0)
        lines = [f"step {step} of {self._steps}"]
        if name == "checkpoint":
            lines.append(f"checkpoint {step} is saved")
        elif name == "finished":
            lines.append("finished")
        elif "seconds_per_step" in content:
            lines.append(f"{1000 * content['seconds_per_step']:.0f} ms a step")
        self._text.content = "  \n".join(lines)
