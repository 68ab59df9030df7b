"""What the program's exit status means: the one list of them.

Errors that have a status of their own name it as `exit_code`; `--help` prints the list.
"""

from __future__ import annotations

import enum

SIGNALLED = 128  # and the signal's number, as shells have it


class ExitStatus(enum.IntEnum):
    """The exit statuses of a run, each with what it means."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitStatus:
        """Makes a status that carries its meaning."""
        status = int.__new__(cls, value)
        status._value_ = value
        status.meaning = meaning
        return status

    DONE = 0, "done"
    OUT_OF_SPACE = 1, "out of memory or disk space, or a bug (with a traceback)"
    MISTAKE = 2, "a mistake in what was asked for, or a file that cannot be used"
    DIVERGED = 3, "diverged: the message says what to type"
    CHECKPOINT = 4, "a checkpoint cannot be written or read"
    EXPORTS = 5, "trained, but not all files written: the same command writes them"
    LOST = 6, "another process of the run was lost; the same command goes on"
    INTERRUPTED = SIGNALLED + 2, "stopped by Ctrl-C; the same command goes on"
    TERMINATED = SIGNALLED + 15, "stopped by SIGTERM; the same command goes on"


def table(indent: str = "  ") -> str:
    """Lists every status with its meaning, a line each."""
    return "".join(f"{indent}{s.value:>3}  {s.meaning}\n" for s in ExitStatus)
