"""The run directory: whose it is, what it was started with, what it has logged.

    lock.json       while a run uses it (sdsjax.runs.lock)
    config.json     the resolved config; resuming reads this JSON, never a Python file
    run.json        command, versions, device, git revision of every session, and
                    fingerprints of the files that it reads; marks the directory as ours
    history.jsonl   one line of metrics per logged step
    checkpoints/    sdsjax.runs.checkpoints
    finished.json   once everything is done: step and sha256 of the final state

A directory that is not empty and has no run.json is somebody else's: it is refused and
left as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from sdsjax.files.atomic import SCRATCH, write_text
from sdsjax.files.fingerprints import changes
from sdsjax.runs import lock, provenance
from sdsjax.runs.checkpoints import Checkpoints
from sdsjax.runs.disk_errors import FULL, in_words, refusal
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.runs.lock import RunError

FORMAT = "sdsjax-run-1"
# Fingerprints by a config's key and a file's name (files/fingerprints).
Inputs = Mapping[str, Mapping[str, str]]
LISTED = 4  # changed files that a message names
# Sections and keys that may differ when a run is resumed: they do not touch a step,
# or (`steps`) are there to be raised.
FREE = ("steps", "checkpoint_every", "preview_every", "diagnostics", "exports")
FREE += ("scoring", "mesh")


class DiskFull(RunError):
    """A run directory cannot be made or opened for lack of space."""

    exit_code = ExitStatus.OUT_OF_SPACE


def differences(old: dict, new: dict) -> list[str]:
    """Lists "key: old -> new" for every key that may not change on resuming."""
    old, new = (
        dict(provenance.flatten(json.loads(json.dumps(config))))
        for config in (old, new)
    )
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)!r} -> {new.get(key, absent)!r}"
        for key in sorted({*old, *new})
        if key.split(".")[0] not in FREE
        and (key not in old or key not in new or old[key] != new[key])
    ]


def git_revision() -> str | None:
    """The commit of the checkout that sdsjax runs from, None for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None


def session_record(command: Iterable[str]) -> dict:
    """What a session ran: command, versions, device, git revision, time."""
    return {
        "command": list(command),
        "versions": provenance.versions(),
        "device": provenance.device(),
        "git_revision": git_revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def read_json(path: Path) -> dict | None:
    """Reads a JSON object of the run directory, None where there is none.

    Raises RunError for one that is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object")
    return content


def _leftover(name: str) -> bool:
    """A file that a killed run had begun: nothing of anybody's."""
    return name.startswith(SCRATCH) or name.endswith(".tmp")


def in_short(lines: list[str]) -> str:
    """Joins the first lines of a list, and counts the others."""
    rest = len(lines) - LISTED
    more = [f"and {rest} more"] if rest > 0 else []
    return "; ".join([*lines[:LISTED], *more])


def inspect(
    folder: Path,
    config: dict,
    *,
    inputs: Inputs | None = None,
    allow_config_change: bool = False,
) -> dict:
    """Looks at a directory, and touches nothing.

    inputs: fingerprints of the files that a run with this config reads. Returns {} for
    a directory to be made or started, otherwise {"finished": content of finished.json
    or None, "changed_inputs": lines}.

    Raises RunError for a foreign directory, one that cannot be used, or one that was
    started with another config or with other files.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--workdir {folder} is a file: choose a directory")
    try:
        names = sorted(os.listdir(folder)) if folder.exists() else []
    except OSError as error:
        raise RunError(f"--workdir {folder} cannot be read: {error.strerror}") from None
    ours = read_json(folder / "run.json")
    # A run that died while it made the directory leaves no more than these.
    started = {"lock.json", "config.json"}
    rest = [n for n in names if n not in started and not _leftover(n)]
    if ours is None and rest:
        raise RunError(
            f"--workdir {folder} is not empty and was not made by sdsjax (it holds "
            f"{rest[0]!r}): choose another directory"
        )
    if ours is None:
        return {}
    if ours.get("format") != FORMAT:
        raise RunError(
            f"--workdir {folder} was made by another version (run.json: format "
            f"{ours.get('format')!r}, this one writes {FORMAT!r}): choose another"
        )
    before = read_json(folder / "config.json")
    if before is None:
        raise RunError(f"--workdir {folder} has lost its config.json: choose another")
    changed = differences(before, config)
    if changed and not allow_config_change:
        raise RunError(
            f"--workdir {folder} was started with another config ("
            + "; ".join(changed)
            + "): choose another --workdir or pass --allow_config_change"
        )
    return {
        "finished": read_json(folder / "finished.json"),
        "changed_inputs": _changed_inputs(
            folder, ours.get("inputs"), inputs, allow_config_change
        ),
    }


def _changed_inputs(
    folder: Path, before: Inputs | None, now: Inputs | None, allowed: bool
) -> list[str]:
    # A directory of before fingerprints were kept has none: nothing to compare.
    known = isinstance(before, dict) and all(
        isinstance(files, dict) for files in before.values()
    )
    changed = changes(before, now or {}) if before and known else []
    if changed and not allowed:
        raise RunError(
            f"--workdir {folder} was started with other files than there are now "
            f"({in_short(changed)}): put them back, choose another --workdir, or pass "
            "--allow_config_change to go on with those of now"
        )
    return changed


class RunDirectory:
    """A run directory held by this process; a context manager.

    Entering makes or checks the directory, takes the lock and records config and
    provenance; leaving releases it. Raises RunError (see `inspect`, and a lock that is
    held).
    """

    def __init__(
        self,
        folder: Path,
        config: dict,
        *,
        inputs: Inputs | None = None,
        allow_config_change: bool = False,
        command: Iterable[str] = (),
        keep: int = 3,
    ) -> None:
        self.folder = Path(folder)
        self.config = config
        self.command = list(command)
        self.inputs = inputs or {}
        self.changed_inputs: list[str] = []
        self.allow_config_change = allow_config_change
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep=keep)
        self.history: list[dict] = []
        self.history_is_behind = False
        # What every session of this run was asked for, this one last.
        self.commands: list[list[str]] = []

    def __enter__(self) -> RunDirectory:
        look = partial(
            inspect,
            self.folder,
            self.config,
            inputs=self.inputs,
            allow_config_change=self.allow_config_change,
        )
        look()
        path = self.folder / "lock.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(path)
            try:
                found = look()
                self.changed_inputs = found.get("changed_inputs", [])
                self._record()
            except BaseException:
                lock.release(path)
                raise
        except OSError as error:
            kind = DiskFull if refusal(error) in FULL else RunError
            reason = error.strerror or in_words(error)
            raise kind(f"cannot write to --workdir {self.folder}: {reason}") from None
        return self

    def __exit__(self, *_) -> None:
        self.checkpoints.close()
        lock.release(self.folder / "lock.json")

    def _record(self) -> None:
        for path in self.folder.iterdir():
            if _leftover(path.name):
                path.unlink(missing_ok=True)
        write_text(self.folder / "config.json", _pretty(self.config))
        record = read_json(self.folder / "run.json") or {"format": FORMAT}
        now = session_record(self.command or sys.argv)
        earlier = record.get("sessions", [])
        if self.changed_inputs:
            now["changed_inputs"] = self.changed_inputs
        record["sessions"] = [*earlier, now]
        # What cannot be read now (fetched weights that were removed) stays as it was.
        before = record.get("inputs")
        record["inputs"] = (before if isinstance(before, dict) else {}) | {
            key: dict(files) for key, files in self.inputs.items()
        }
        self.commands = [*(list(s.get("command", ())) for s in earlier), self.command]
        # Last: from here on the directory counts as ours.
        write_text(self.folder / "run.json", _pretty(record))
        # Only now: a full disk must not make a finished run an unfinished one.
        (self.folder / "finished.json").unlink(missing_ok=True)

    def load_history(self, step: int) -> list[dict]:
        """Reads the logged rows up to `step` and drops all others.

        Later ones, and a line cut off by a crash, are removed from the file.
        """
        path, rows, text = self.folder / "history.jsonl", [], ""
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and row.get("step", step + 1) <= step:
                    rows.append(row)
        kept = _lines(rows)
        if kept != text:
            write_text(path, kept)
        self.history = rows
        return rows

    def append_history(self, row: dict) -> None:
        """Adds a row to the history, in memory and on disk.

        Raises OSError for a disk that takes none, and keeps the row: it is written with
        the next one, or by `complete_history`.
        """
        self.history.append(row)
        if self.history_is_behind:
            self.complete_history()
            return
        self.history_is_behind = True
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(_lines([row]))
        self.history_is_behind = False

    def complete_history(self) -> None:
        """Writes the rows that the disk did not take before. Raises OSError."""
        if self.history_is_behind:
            write_text(self.folder / "history.jsonl", _lines(self.history))
            self.history_is_behind = False

    def finish(self, summary: dict) -> None:
        """Marks the run as done."""
        write_text(self.folder / "finished.json", _pretty(summary))


class FollowedDirectory:
    """A run directory that another process holds and writes: nothing happens here."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.changed_inputs: list[str] = []
        self.commands: list[list[str]] = []
        self.history: list[dict] = []

    def load_history(self, step: int) -> list[dict]:
        """Knows no rows: they are the other's."""
        del step
        return []


def _lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _pretty(content: dict) -> str:
    return json.dumps(content, indent=2) + "\n"
