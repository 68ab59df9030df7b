"""What a run says while it runs: a progress bar or plain lines, and TensorBoard.

With a terminal on standard error, a bar with step time and time left; without one, a
plain line every few seconds. TensorBoard files go to `<run>/tensorboard`; on resuming,
`purge_step` makes its readers drop what a crashed process logged past its checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from tensorboardX import SummaryWriter

PLAIN_SECONDS = 5.0


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


class Log:
    """Progress for a person, scalars and images for TensorBoard; a context manager.

    total: steps of the whole run; start: steps already done.
    """

    def __init__(self, folder: Path, total: int, start: int) -> None:
        self.total, self.start = total, start
        self.timer = StepTimer()
        # A scalar of step s is logged under s: those past the checkpoint go, all of
        # them where there is none.
        # A name has the second in it: one that resumes within it would overwrite.
        number = len(list(folder.glob("events.*")))
        self._writer = SummaryWriter(
            str(folder),
            purge_step=start + 1,
            flush_secs=10,
            filename_suffix=f".{number:04}",
        )
        self._console = Console(stderr=True)
        self._bar = None
        self._last_line = 0.0

    def __enter__(self) -> Log:
        if self._console.is_terminal:
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
        self._writer.close()

    def say(self, line: str) -> None:
        """Prints one line for a person."""
        if self._bar is not None:
            self._console.print(line, highlight=False, markup=False)
        else:
            print(f"sdsjax: {line}", file=sys.stderr, flush=True)

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
                self._writer.add_scalar(name, value, int(row["step"]))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [h w 3]."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Writes what TensorBoard's writer still holds."""
        self._writer.flush()
