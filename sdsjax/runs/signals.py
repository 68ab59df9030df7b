"""SIGTERM and SIGINT ask a run to stop; asked twice, the process ends at once.

The first signal sets `Stop.requested`, which the loop reads after every step. Python
runs signal handlers only between bytecodes, which a long compilation delays: the count
is therefore kept by a thread that reads the interpreter's wake-up pipe.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from sdsjax.distributed.supervisor import is_supervised
from sdsjax.runs.exit_status import SIGNALLED

# A scheduler signals a run's every process, and its parent passes the same one on.
ECHO_SECONDS = 2.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """The run was asked to stop by a signal, and has stopped.

    number: the signal's; step: after which it stopped; `code` is 128 + the signal.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(SIGNALLED + number)
        self.number, self.step = number, step

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        return f"stopped by {name} at step {self.step}; the same command continues it"

    @property
    def exit_code(self) -> int:
        """The exit status that a shell expects: 128 + the signal."""
        return int(self.code or 0)


class Stop:
    """A context in which `requested` is the signal that asked to stop, or None.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._previous: dict = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous = {s: signal.signal(s, lambda *_: None) for s in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        first = 0.0
        while received := os.read(self._read, 1):
            number = received[0]
            if number == 0:
                return
            if number not in SIGNALS:
                continue
            if self.requested is not None:
                if is_supervised() and time.monotonic() - first < ECHO_SECONDS:
                    continue
                os._exit(SIGNALLED + number)
            self.requested, first = number, time.monotonic()

    def __exit__(self, *_) -> None:
        if not self._previous:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            os.write(self._write, b"\0")
        self._watcher.join(timeout=5)
        os.close(self._read)
        os.close(self._write)
