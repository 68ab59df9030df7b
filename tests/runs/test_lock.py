"""The lock of a run directory, where the system does not do what Linux usually does.

Who is refused, and what a killed run leaves, is in tests/training/test_resume.py.
"""

import ctypes
import errno
import json
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdsjax.runs import lock

HOLDER = {"pid": 0, "host": platform.node(), "process_started": "", "since": "then"}


def test_of_another_user_s_process_it_is_known_that_it_lives(monkeypatch):
    def refused(pid, number):
        assert number == 0  # nothing is sent
        raise PermissionError

    known = lock.process_started(os.getpid())
    assert known
    monkeypatch.setattr(os, "kill", refused)
    assert lock.process_started(os.getpid()) == known


def test_without_proc_a_process_that_lives_is_of_an_unknown_time(monkeypatch):
    def unreadable(path):
        raise OSError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert lock.process_started(os.getpid()) == ""
    # so that its lock is nobody's to take
    assert not lock.is_stale(HOLDER | {"pid": os.getpid(), "process_started": "7"})


@pytest.fixture
def windows(monkeypatch):
    """Windows' calls for processes: 5 lives, 6 has ended with 3. Handles closed."""
    handles, closed = {5: 259, 6: 3}, []

    def exit_code(handle, code):
        code._obj.value = handles[handle]
        return 1

    kernel = SimpleNamespace(
        OpenProcess=lambda access, inherit, pid: pid if pid in handles else 0,
        GetExitCodeProcess=exit_code,
        CloseHandle=closed.append,
    )
    windll = SimpleNamespace(kernel32=kernel)
    monkeypatch.setattr(ctypes, "windll", windll, raising=False)
    monkeypatch.setattr(lock, "os", SimpleNamespace(name="nt"))
    return closed


def test_windows_is_asked_for_the_process_and_ends_none(windows):
    assert [lock.process_started(pid) for pid in (5, 6, 7)] == ["", None, None]
    assert windows == [5, 6]
    assert not lock.is_stale(HOLDER | {"pid": 5})
    assert lock.is_stale(HOLDER | {"pid": 6})


@pytest.fixture
def no_links(monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", link)


def test_a_file_system_without_hard_links_has_the_same_lock(no_links, tmp_path):
    path = tmp_path / "lock.json"
    lock.acquire(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    with pytest.raises(lock.RunError, match=f"in use by process {os.getpid()} on"):
        lock.acquire(path)
    assert os.listdir(tmp_path) == ["lock.json"]  # no scratch file is left
    lock.release(path)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    path, flush = tmp_path / "lock.json", []

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:3])

        def flush(self):
            flush.append(1)
            raise OSError(errno.ENOSPC, "full")

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: Full(real(self, mode)))
    with pytest.raises(OSError, match="full"):
        lock._write_new(path, "{}")
    assert flush
    assert not path.exists()


def test_a_lock_that_another_process_has_taken_meanwhile_is_put_back(
    tmp_path, monkeypatch
):
    """Between reading a stale lock and taking it away, another run took it over."""
    path = tmp_path / "lock.json"
    gone = HOLDER | {"pid": 2**22 + 1, "process_started": "1"}
    theirs = HOLDER | {"pid": os.getppid(), "host": "elsewhere"}
    path.write_text(json.dumps(gone))
    rename = os.rename

    def later(source, target):
        path.write_text(json.dumps(theirs))
        rename(source, target)

    monkeypatch.setattr(os, "rename", later)
    with pytest.raises(lock.RunError, match="on elsewhere since then"):
        lock.acquire(path)
    assert json.loads(path.read_text()) == theirs
    assert os.listdir(tmp_path) == ["lock.json"]


def test_a_lock_that_is_always_stale_is_refused_in_the_end(tmp_path, monkeypatch):
    path, tries = tmp_path / "lock.json", []
    path.write_text(json.dumps(HOLDER | {"pid": 2**22 + 1}))
    monkeypatch.setattr(lock, "_remove_stale", lambda *args: tries.append(args))
    with pytest.raises(lock.RunError, match="if that process is gone, delete"):
        lock.acquire(path)
    assert len(tries) == 3


def test_another_s_lock_is_not_released(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(HOLDER | {"pid": os.getpid(), "host": "elsewhere"}))
    lock.release(path)
    assert path.exists()
    path.write_text(json.dumps(HOLDER | {"pid": os.getpid()}))
    lock.release(path)
    assert not path.exists()
