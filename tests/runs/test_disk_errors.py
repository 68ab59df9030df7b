"""What a store's threads print while it writes is said once, or not lost."""

import logging
import sys
import threading

import pytest

from sdsjax.runs import disk_errors
from sdsjax.runs.disk_errors import in_words, said_once

CLOSED = "Event loop is closed"


@pytest.fixture
def hooks(monkeypatch):
    """What Python's three hooks were called with, by name."""
    said = []
    monkeypatch.setattr(sys, "excepthook", lambda *a: said.append(("except", a)))
    monkeypatch.setattr(sys, "unraisablehook", lambda a: said.append(("unraisable", a)))
    monkeypatch.setattr(threading, "excepthook", lambda a: said.append(("thread", a)))
    return said


def speak():
    """Each of what is held: the three hooks, and a logger of a store."""
    sys.excepthook(ValueError, ValueError("a"), None)
    sys.unraisablehook("b")
    threading.excepthook("c")
    logging.getLogger("absl").warning("d")


def test_what_was_said_while_writing_comes_after_it(hooks, caplog):
    before = sys.excepthook, sys.unraisablehook, threading.excepthook
    with said_once():
        speak()
        assert not hooks
        assert not caplog.records
    names = [name for name, _ in hooks]
    assert names == ["except", "unraisable", "thread"]
    assert [record.message for record in caplog.records] == ["d"]
    assert (sys.excepthook, sys.unraisablehook, threading.excepthook) == before


def fail_aloud():
    speak()
    raise OSError("full")


class Unraisable:
    def __init__(self, error):
        self.exc_value = error


def test_where_writing_fails_the_error_alone_is_said(hooks, caplog):
    """And what calls back later to a loop that is gone is dropped; no other error."""
    with pytest.raises(OSError, match="full"), said_once():
        fail_aloud()
    assert not hooks
    assert not caplog.records
    sys.excepthook(RuntimeError, RuntimeError(CLOSED), None)
    sys.unraisablehook(Unraisable(RuntimeError(CLOSED)))
    assert not hooks
    for error in (RuntimeError("else"), ValueError(CLOSED)):
        sys.excepthook(type(error), error, None)
        sys.unraisablehook(Unraisable(error))
    assert [name for name, _ in hooks] == ["except", "unraisable"] * 2
    logging.getLogger("absl").warning("later")
    assert [record.message for record in caplog.records] == ["later"]


def test_an_error_is_told_by_the_disk_s_reason_or_its_first_line():
    inner = OSError(28, "No space left on device")
    outer = RuntimeError("INTERNAL: a store's own words")
    outer.__cause__ = inner
    assert in_words(outer) == "No space left on device"
    assert in_words(RuntimeError("cannot: Read-only file system (x)")) == (
        "Read-only file system"
    )
    assert in_words(ValueError("\n first\nsecond")) == "first"
    assert in_words(ValueError()) == "ValueError"
    assert len(in_words(ValueError("x" * 999))) == 200
    assert list(disk_errors.causes(outer)) == [outer, inner]
