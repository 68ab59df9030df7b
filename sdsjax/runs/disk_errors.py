"""A disk that takes no more: recognised in any error, and said once.

A store reports a full disk as its own RESOURCE_EXHAUSTED, through threads that log
tracebacks; a user wants one line.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSALS = (*FULL, errno.EROFS)
# Who logs what a store's threads met, beside raising it.
LOGGERS = ("absl", "asyncio")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, then what it was raised from or while."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refusal(error: BaseException) -> int | None:
    """Returns the errno of REFUSALS that an error or a cause of it stands for.

    Read from the text where a library has made an error of its own; None for others.
    """
    for one in causes(error):
        if isinstance(one, OSError) and one.errno in REFUSALS:
            return one.errno
        for number in REFUSALS:
            if os.strerror(number) in str(one):
                return number
    return None


def in_words(error: BaseException) -> str:
    """Says in a few words what went wrong: the disk's reason, or the first line."""
    number = refusal(error)
    if number is not None:
        return os.strerror(number)
    line = str(error).strip().splitlines() or [type(error).__name__]
    return line[0][:200]


class _Held(logging.Filter):
    # keeps a logger's records instead of letting them pass
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return False


def _loop_is_closed(error: object) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


class _Hooks:
    """Python's three hooks for errors that nobody catches, held while a store writes.

    Its threads may still finish after the store has failed and call back to an event
    loop that is gone. That error alone, which is of no use, is then dropped for good.
    """

    def __init__(self) -> None:
        self.before = sys.excepthook, sys.unraisablehook, threading.excepthook
        self.held: list[tuple[Callable, tuple]] = []

    def hold(self) -> None:
        excepthook, unraisable, of_threads = self.before
        sys.excepthook = lambda *said: self.held.append((excepthook, said))
        sys.unraisablehook = lambda *said: self.held.append((unraisable, said))
        threading.excepthook = lambda *said: self.held.append((of_threads, said))

    def release(self, *, failed: bool) -> None:
        excepthook, unraisable, threading.excepthook = self.before
        sys.excepthook, sys.unraisablehook = excepthook, unraisable
        if not failed:
            for hook, said in self.held:
                hook(*said)
            return

        def hook(kind, error, trace) -> None:
            if not _loop_is_closed(error):
                excepthook(kind, error, trace)

        def hook_of_unraisable(said) -> None:
            if not _loop_is_closed(said.exc_value):
                unraisable(said)

        sys.excepthook, sys.unraisablehook = hook, hook_of_unraisable


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Holds back what loggers and threads print while a store writes.

    Where that raises, the error says it; otherwise all is printed after all.
    """
    held, hooks = {name: _Held() for name in LOGGERS}, _Hooks()
    for name, one in held.items():
        logging.getLogger(name).addFilter(one)
    hooks.hold()
    failed = True
    try:
        yield
        failed = False
    finally:
        hooks.release(failed=failed)
        for name, one in held.items():
            logging.getLogger(name).removeFilter(one)
            for record in () if failed else one.records:
                logging.getLogger(name).handle(record)
