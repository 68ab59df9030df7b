"""What a run says while it runs: a progress bar or plain lines, and TensorBoard.

With a terminal on standard error, a bar with step time and time left; without one, a
plain line every few seconds. TensorBoard files go to `<run>/tensorboard`; on resuming,
`purge_step` makes its readers drop what a crashed process logged past its checkpoint.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sdsjax.runs.disk_errors import in_words
from sdsjax.runs.without import without

# tensorboardX imports torch where there is one (Colab), for which nobody here asks and
# which takes seconds.
with without("torch"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import image, scalar

PLAIN_SECONDS = 5.0
FLUSH_SECONDS = 10.0


def clock(seconds: float) -> str:
    """Writes seconds as 1:02:03, or 2:03 under an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def brief(seconds: float) -> str:
    """A step's time to three digits: 0.402 ms, 12.3 ms or 1.25 s."""
    number, unit = (seconds, "s") if seconds >= 1 else (1e3 * seconds, "ms")
    return f"{number:#.3g} {unit}"


class StepTimer:
    """Keeps the mean time of a step, exponential over about 10 laps.

    Pauses are left out.
    """

    def __init__(self) -> None:
        self.mean: float | None = None
        self._since: tuple[int, float] | None = None

    def pause(self) -> None:
        """What happens until the next `lap` is not training."""
        self._since = None

    def lap(self, step: int) -> None:
        """Notes that step `step` is done."""
        now = time.perf_counter()
        if self._since is not None and step > self._since[0]:
            taken = (now - self._since[1]) / (step - self._since[0])
            self.mean = taken if self.mean is None else 0.9 * self.mean + 0.1 * taken
        self._since = (step, now)


class _EventFile:
    """One file of TensorBoard's, written by this thread.

    tensorboardX's own writer leaves that to a thread, which a full disk ends: the run
    would then wait for it for ever.
    """

    def __init__(self, folder: Path, start: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A name has the second in it: one that resumes within it would overwrite.
        number = len(list(folder.glob("events.*")))
        self._events = EventsWriter(str(folder / "events"), f".{number:04}")
        self._flushed = time.monotonic()
        # A scalar of step s is logged under s: those past the checkpoint go, all of
        # them where there is none.
        for event in (
            Event(file_version="brain.Event:2"),
            Event(session_log=SessionLog(status=SessionLog.START)),
        ):
            self._write(event, start + 1)
        self.flush()

    def _write(self, event, step: int) -> None:
        event.step, event.wall_time = step, time.time()
        self._events.write_event(event)

    def add(self, summary, step: int) -> None:
        self._write(Event(summary=summary), step)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._events.close()


class Log:
    """Progress for a person, scalars and images for TensorBoard; a context manager.

    folder: TensorBoard's, None for no file; total: steps of the whole run; start: steps
    already done; quiet: of a process that follows another, no lines but warnings.
    """

    def __init__(
        self, folder: Path | None, total: int, start: int, *, quiet: bool = False
    ) -> None:
        self.total, self.start, self.quiet = total, start, quiet
        self.timer = StepTimer()
        self.folder = folder
        self.warnings: list[str] = []
        self._events: _EventFile | None = None
        self._console = Console(stderr=True)
        self._bar = None
        self._last_line = 0.0
        if folder is not None:
            with self._or_go_without():
                self._events = _EventFile(folder, start)

    def __enter__(self) -> Log:
        if self._console.is_terminal and not self.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(
                "distilling", total=self.total, completed=self.start, note="compiling"
            )
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.stop()
        self.close()

    def close(self) -> None:
        """Ends TensorBoard's file; what cannot be written any more is a warning."""
        with self._or_go_without():
            events, self._events = self._events, None
            if events is not None:
                events.close()

    @contextlib.contextmanager
    def _or_go_without(self) -> Iterator[None]:
        # TensorBoard's file is a copy of the history: a run goes on without it.
        try:
            yield
        except OSError as error:
            self._events = None
            self.warn(
                f"{self.folder} cannot be written ({in_words(error)}): this run goes "
                "on without TensorBoard"
            )

    def say(self, line: str) -> None:
        """Prints one line for a person."""
        if self.quiet:
            return
        if self._bar is not None:
            self._console.print(line, highlight=False, markup=False)
        else:
            print(f"sdsjax: {line}", file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        """Prints one warning, once, and keeps it in `warnings`."""
        if line in self.warnings:
            return
        self.warnings.append(line)
        if self._bar is not None:
            self._console.print(f"warning: {line}", highlight=False, markup=False)
        else:
            print(f"sdsjax: warning: {line}", file=sys.stderr, flush=True)

    def progress(self, step: int) -> None:
        """Shows how far the run is; a plain line at most every few seconds."""
        each = self.timer.mean
        note = ""
        if each is not None:
            left = clock(each * (self.total - step))
            note = f"{brief(each)}/step, {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_SECONDS or step == self.total:
            self._last_line = now
            self.say(f"step {step}/{self.total}" + (f", {note}" if note else ""))

    def scalars(self, row: Mapping[str, float]) -> None:
        """Writes every number of a row, under the row's `step`."""
        for name, value in row.items():
            if name != "step":
                self._add(scalar(name, value), int(row["step"]))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [h w 3]."""
        self._add(image(name, picture, dataformats="HWC"), step)

    def _add(self, summary, step: int) -> None:
        with self._or_go_without():
            if self._events is not None:
                self._events.add(summary, step)

    def flush(self) -> None:
        """Puts what was logged on the disk."""
        with self._or_go_without():
            if self._events is not None:
                self._events.flush()


class QuietLog(Log):
    """The log of one run among several: its lines carry its name, and it has no bar.

    name: what its lines begin with. What happens at every step stays in its files.
    """

    def __init__(self, name: str, folder: Path, total: int, start: int) -> None:
        self.name = name
        super().__init__(folder, total, start)

    def __enter__(self) -> QuietLog:
        return self

    def say(self, line: str) -> None:
        """Prints one line for a person, with the name of the run."""
        super().say(f"{self.name}: {line}")

    def warn(self, line: str) -> None:
        """Prints one warning, once, and keeps it in `warnings` as it is."""
        if line not in self.warnings:
            self.warnings.append(line)
            super().say(f"{self.name}: warning: {line}")

    def progress(self, step: int) -> None:
        """Shows nothing: those who run together have one progress."""
        del step
