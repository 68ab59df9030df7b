"""Signals that ask a run to stop, read from Python's wake-up pipe.

Whole processes that are sent some are in tests/training/test_resume.py (slow).
"""

import os
import signal
import threading
import time

import pytest

from sdsjax.runs import signals
from sdsjax.runs.signals import Interrupted, Stop

# the thread that is made to end where all would
ENDED = "ignore::pytest.PytestUnhandledThreadExceptionWarning"


def wait_for(question):
    until = time.monotonic() + 20
    while not question() and time.monotonic() < until:
        time.sleep(0.002)
    assert question()


@pytest.fixture
def ended(monkeypatch):
    """The statuses with which this process would have ended at once."""
    found = []

    def end(status):
        found.append(status)
        raise SystemExit  # of the thread that would have ended all of them

    monkeypatch.setattr(signals.os, "_exit", end)
    return found


@pytest.mark.filterwarnings(ENDED)
def test_one_signal_asks_and_a_second_ends_at_once(ended):
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: stop.requested is not None)
        assert stop.requested == signal.SIGTERM
        assert ended == []
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: ended)
    assert ended == [130]  # by the second: 128 + SIGINT
    assert stop.requested == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_signals_ask_for_nothing(ended):
    with Stop() as stop:
        os.write(stop._write, bytes([signal.SIGCHLD, signal.SIGINT]))
        wait_for(lambda: stop.requested is not None)
        assert stop.requested == signal.SIGINT
    assert ended == []


@pytest.mark.filterwarnings(ENDED)
def test_a_supervised_process_is_sent_one_signal_twice(ended, monkeypatch):
    """By its scheduler and by its parent: the second counts once it comes later."""
    monkeypatch.setattr(signals, "is_supervised", lambda: True)
    now = [100.0]
    monkeypatch.setattr(
        signals, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])})
    )
    with Stop() as stop:
        os.write(stop._write, bytes([signal.SIGTERM]))
        wait_for(lambda: stop.requested is not None)
        now[0] = 101.9
        os.write(stop._write, bytes([signal.SIGTERM, signal.SIGCHLD]))
        time.sleep(0.05)
        assert ended == []
        now[0] = 102.1
        os.write(stop._write, bytes([signal.SIGTERM]))
        wait_for(lambda: ended)
    assert ended == [143]


def test_outside_the_main_thread_nothing_is_taken_over():
    kept, found = signal.getsignal(signal.SIGINT), []

    def run():
        with Stop() as stop:
            found.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(None, kept)]


def test_an_interruption_says_its_signal_and_step():
    error = Interrupted(signal.SIGTERM, 40)
    assert str(error).startswith("stopped by SIGTERM at step 40;")
    assert error.exit_code == 143
