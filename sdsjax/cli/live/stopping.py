"""What ends a page: Ctrl-C, or SIGTERM from whoever started it."""

from __future__ import annotations

import signal
import threading


def stopped_by_signals() -> threading.Event:
    """Makes an event that SIGINT and SIGTERM set, so that a page closes in order.

    Said outright, since a shell has what it starts in the background ignore SIGINT, and
    Python then leaves it ignored. Outside the main thread nothing sets it.
    """
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    return stop
