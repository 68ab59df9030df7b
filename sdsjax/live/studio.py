"""The studio's page: what to make, the queue, the gallery of a folder, downloads.

The panel's buttons are handled by viser's threads, one event at a time or several;
what they share is the queue (`jobs`), which has a lock, and the selected run, which one
thread shows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sdsjax.live.gallery import download, formats_of, list_runs, picture_of, table
from sdsjax.live.jobs import Job, Jobs
from sdsjax.live.scene import Stand
from sdsjax.live.server import Server
from sdsjax.live.shapes import shape_of
from sdsjax.live.show_runs import description, is_finished
from sdsjax.runs.checkpoints import CheckpointError, Checkpoints
from sdsjax.runs.run_directory import RunError
from sdsjax.training.build.finished_run import read_newest

# (prompt, config, seed, steps, settings) -> the job; raises ValueError in one line.
Plan = Callable[[str, str, int, int, str], Job]
NONE = "(none)"
SECONDS = 1.0  # between two looks at the folder and the queue


class Studio:
    """The studio is a page, a folder of runs and a queue.

    plan: makes a job of what the panel says; configs: what can be chosen.
    """

    def __init__(
        self,
        server: Server,
        folder: Path,
        jobs: Jobs,
        plan: Plan,
        configs: Sequence[str],
        *,
        prompt: str = "a red mug",
        config: str = "ssd",
        settings: str = "",
    ):
        self._server, self._folder, self._jobs, self._plan = server, folder, jobs, plan
        self._stand: Stand | None = None
        self._shown: tuple[Path, int, bool] | None = None
        self._pictured: tuple[Path, Any] | None = None
        self._started: list[Path] = []
        tabs = server.gui.add_tab_group()
        with tabs.add_tab("Make"):
            self._add_form(configs, prompt, config, settings)
        with tabs.add_tab("Gallery"):
            self._add_gallery()

    def _add_form(
        self, configs: Sequence[str], prompt: str, config: str, settings: str
    ) -> None:
        gui = self._server.gui
        self._prompt = gui.add_text("prompt", initial_value=prompt)
        self._config = gui.add_dropdown("config", tuple(configs), initial_value=config)
        self._seed = gui.add_number("seed", initial_value=0, min=0, step=1)
        self._steps = gui.add_number(
            "steps",
            initial_value=0,
            min=0,
            step=1,
            hint="0: as many as the config says",
        )
        self._settings = gui.add_text(
            "settings",
            initial_value=settings,
            hint="other keys: resolution=64 batch_size=4",
        )
        start = gui.add_button("Start")
        stop = gui.add_button("Stop", hint="the running one; it goes on by Start")
        clear = gui.add_button("Clear queue", hint="those that wait")
        self._answer = gui.add_markdown("")
        self._queue = gui.add_markdown("the queue is empty")
        start.on_click(lambda _: self._start())
        stop.on_click(lambda _: self._jobs.stop(lambda job: job.status == "running"))
        clear.on_click(lambda _: self._jobs.stop(lambda job: job.status == "waiting"))

    def _add_gallery(self) -> None:
        gui = self._server.gui
        self._run = gui.add_dropdown("run", (NONE,), initial_value=NONE)
        self._text = gui.add_markdown("")
        self._picture = gui.add_image(_blank(), visible=False)
        self._format = gui.add_dropdown("format", ("ply",), initial_value="ply")
        button = gui.add_button("Download")
        self._table = gui.add_markdown("no runs yet")
        button.on_click(lambda event: self._download(event.client))

    def _start(self) -> None:
        try:
            job = self._plan(
                self._prompt.value,
                self._config.value,
                int(self._seed.value),
                int(self._steps.value),
                self._settings.value,
            )
        except (ValueError, OSError, RuntimeError) as error:
            self._answer.content = f"**{escape(' '.join(str(error).split()))}**"
            return
        if not self._jobs.add(job):
            self._answer.content = f"**{escape(job.folder.name)} is in the queue**"
            return
        self._answer.content = ""
        self._started.append(job.folder)
        self.refresh_queue()

    def _download(self, client: Any) -> None:
        run = self.selected()
        if run is None or client is None:
            return
        waiting = client.add_notification("Download", "writing", loading=True)
        try:
            name, content = download(run, self._format.value)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            waiting.body, waiting.loading = " ".join(str(error).split()), False
            return
        waiting.remove()
        client.send_file_download(name, content, save_immediately=True)

    def selected(self) -> Path | None:
        """Returns the run that the gallery shows."""
        name = self._run.value
        return None if name == NONE else self._folder / name

    def refresh(self) -> None:
        """Looks at the queue and the folder, and shows what has changed."""
        self.refresh_queue()
        entries = list_runs(self._folder)
        self._table.content = table(entries)
        names = tuple(one.folder.name for one in entries) or (NONE,)
        if names != tuple(self._run.options):
            kept = self._run.value
            self._run.options = names
            self._run.value = kept if kept in names else names[0]
        running = [job.folder for job in self._jobs.list() if job.status == "running"]
        for folder in running:
            if folder in self._started and folder.name in names:
                # a run that was started here is shown once, when it begins
                self._started.remove(folder)
                self._run.value = folder.name
        run = self.selected()
        if run is not None:
            self._show(run)

    def refresh_queue(self) -> None:
        """Says how far each job is."""
        lines = [
            f"**{escape(job.folder.name)}**: {job.status}  \n{escape(job.news)}"
            for job in reversed(self._jobs.list())
        ]
        self._queue.content = "\n\n".join(lines) or "the queue is empty"

    def _show(self, run: Path) -> None:
        """Shows a run: its newest asset, if it is not shown yet, and its picture."""
        self._show_picture(run)
        steps = Checkpoints(run / "checkpoints").steps()
        newest = (run, steps[-1], is_finished(run)) if steps else None
        if newest is not None and newest == self._shown:
            return
        changed = self._shown is None or self._shown[0] != run
        if changed and self._stand is not None:
            self._stand.frame.remove()
            self._stand, self._shown = None, None
        if changed:
            formats = tuple(formats_of(run)) or (NONE,)
            self._format.options, self._format.value = formats, formats[0]
        try:
            read = read_newest(run)
        except (RunError, CheckpointError, OSError) as error:
            self._text.content = escape(" ".join(str(error).split()))
            return
        bound = float(read.config.representation.get("bound", 1.0))
        self._stand = self._stand or Stand(self._server, "/asset")
        self._stand.show(shape_of(read.asset, bound=bound))
        self._shown = run, read.step, newest is not None and newest[2]
        self._text.content = description(run, read)

    def _show_picture(self, run: Path) -> None:
        picture = picture_of(run)
        self._picture.visible = picture is not None
        if picture is None:
            return
        key = run, hash(picture.tobytes())
        if key != self._pictured:
            self._picture.image, self._pictured = picture, key


def _blank() -> Any:
    import numpy as np

    return np.full((4, 4, 3), 255, np.uint8)


def keep_fresh(studio: Studio, stop: threading.Event) -> None:
    """Refreshes a studio every second, until told to stop."""
    while not stop.wait(SECONDS):
        # a file that is being written or removed just now is read the next time
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            studio.refresh()
