"""One process per run directory: a lock file that says who holds it.

The file holds pid, host and the process's start time. A lock of a process that is gone
(same host, no such pid, or the pid now belongs to a younger process) is taken over; any
other refuses in one line. What a dying process leaves behind therefore never blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from pathlib import Path


class RunError(ValueError):
    """A run directory cannot be used as asked; the message is one line."""


def process_started(pid: int) -> str | None:
    """Tells when a process of this machine started (opaque text).

    "" where that is not known, None where there is no such process.
    """
    if os.name == "nt":
        return _windows_process(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name in parentheses may hold spaces; after it, state is field 3, start 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _windows_process(pid: int) -> str | None:
    # os.kill(pid, 0) would end the process there.
    import ctypes

    query, still_active = 0x1000, 259
    kernel = ctypes.windll.kernel32
    handle = kernel.OpenProcess(query, False, pid)
    if not handle:
        return None
    code = ctypes.c_ulong()
    alive = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return "" if alive and code.value == still_active else None


def _identity() -> dict:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "process_started": process_started(os.getpid()) or "",
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def is_stale(holder: dict) -> bool:
    """Whether the process of a lock's content is certainly gone."""
    if holder["host"] != platform.node():
        return False
    started = process_started(holder["pid"])
    if started is None:
        return True
    return "" not in (started, holder["process_started"]) and (
        started != holder["process_started"]
    )


def _read(path: Path) -> dict | None:
    """A lock's content; None if it is gone or was cut off while being written."""
    try:
        with path.open("rb") as file:
            holder = json.loads(file.read(4096))
        names = {"pid": int, "host": str, "process_started": str, "since": str}
        whole = all(isinstance(holder[name], kind) for name, kind in names.items())
        return holder if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse(path: Path, holder: dict | None) -> RunError:
    if holder is None:
        return RunError(
            f"{path.parent} is locked, and {path.name} cannot be read: delete "
            f"{path} if no run uses the directory"
        )
    return RunError(
        f"{path.parent} is in use by process {holder['pid']} on {holder['host']} since "
        f"{holder['since']}: wait for it or choose another --workdir (if that process "
        f"is gone, delete {path})"
    )


def acquire(path: Path) -> None:
    """Creates the lock file, atomically and complete. Raises RunError if it is held."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(json.dumps(_identity()))
        for _ in range(3):
            try:
                # A hard link fails where the name exists, and never shows half a file.
                os.link(fresh, path)
                return
            except FileExistsError:
                holder = _read(path)
                if holder is None or not is_stale(holder):
                    raise _refuse(path, holder) from None
                _remove_stale(path, holder)
            except OSError:
                # A file system without hard links.
                with contextlib.suppress(FileExistsError):
                    _write_new(path, fresh.read_text())
                    return
        raise _refuse(path, _read(path))
    finally:
        fresh.unlink(missing_ok=True)


def _write_new(path: Path, text: str) -> None:
    """Writes a file that must not exist, whole or not at all."""
    with path.open("x") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _remove_stale(path: Path, holder: dict) -> None:
    """Takes a stale lock away; if another process has replaced it meanwhile, puts its
    lock back."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.stale.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside) != holder:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def release(path: Path) -> None:
    """Removes the lock if it is ours."""
    holder = _read(path)
    if holder and (holder["pid"], holder["host"]) == (os.getpid(), platform.node()):
        # On a disk that became read-only it stays, and counts as stale.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
