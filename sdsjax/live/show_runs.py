"""The page of `python -m sdsjax.view`: runs side by side, followed while they train."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from sdsjax.live.scene import Stand, places
from sdsjax.live.server import Server
from sdsjax.live.shapes import shape_of
from sdsjax.runs.checkpoints import CheckpointError, Checkpoints
from sdsjax.runs.run_directory import RunError
from sdsjax.training.build.finished_run import FinishedRun, read_newest

FIGURES = ("iou", "psnr", "chamfer", "janus_rate")


class FollowedRun:
    """A run in the page: its asset, and a folder of the panel that says what it is."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        first: FinishedRun,
        name: str,
        position: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ):
        self.folder, self.step, self.finished = folder, -1, False
        self._stand = Stand(server, name, position, folder.name)
        with server.gui.add_folder(folder.name):
            self._text = server.gui.add_markdown("")
            box = server.gui.add_checkbox("show", initial_value=True)
        box.on_update(lambda _: setattr(self._stand.frame, "visible", box.value))
        self.show(first)

    def show(self, run: FinishedRun) -> None:
        """Shows what was read of the run, where that is another step."""
        if run.step != self.step:
            bound = float(run.config.representation.get("bound", 1.0))
            self._stand.show(shape_of(run.asset, bound=bound))
            self.step = run.step
        self.finished = is_finished(self.folder)
        self._text.content = description(self.folder, run)

    def refresh(self) -> None:
        """Reads the run again if it has saved something since."""
        steps = Checkpoints(self.folder / "checkpoints").steps()
        known = self.step, self.finished
        if steps and (steps[-1], is_finished(self.folder)) != known:
            # what is being written or removed just now is read the next time
            with contextlib.suppress(RunError, CheckpointError, OSError):
                self.show(read_newest(self.folder))


def description(folder: Path, run: FinishedRun) -> str:
    """Describes a run in a few lines of Markdown: prompt, step, scores."""
    lines = [f"**{escape(str(run.config.get('prompt', '')))}**"]
    state = "finished" if is_finished(folder) else "not finished"
    lines.append(f"step {run.step}, {state}")
    scores = read_scores(folder)
    lines.append(", ".join(f"{name} {value:.3g}" for name, value in scores.items()))
    return "  \n".join(line for line in lines if line)


def is_finished(folder: Path) -> bool:
    """Tells whether a run has done all its steps and written its exports."""
    return (folder / "finished.json").is_file()


def read_scores(folder: Path) -> dict[str, float]:
    """Reads a run's scores against the truth; {} where it has none."""
    try:
        metrics: Any = json.loads((folder / "metrics.json").read_text("utf-8"))
        truth = metrics.get("truth") or {}
        return {k: float(truth[k]) for k in FIGURES if truth.get(k) is not None}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def show_runs(
    server: Server, runs: Sequence[tuple[Path, FinishedRun]]
) -> list[FollowedRun]:
    """Puts runs side by side into a page; a folder of the panel for each."""
    return [
        FollowedRun(server, folder, run, f"/run{index}", position)
        for index, ((folder, run), position) in enumerate(zip(runs, places(len(runs))))
    ]


def follow(shown: Sequence[FollowedRun], seconds: float, stop: threading.Event) -> None:
    """Looks every so many seconds for what the runs have saved, until told to stop."""
    while not stop.wait(seconds):
        for run in shown:
            run.refresh()
