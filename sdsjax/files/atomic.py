"""Files that are either whole or absent: write beside, then rename.

A reader (or a second run of the same command) never meets half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCRATCH = ".unfinished-"  # how a file begins that a killed run left behind


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path in the same folder (same suffix) that becomes `path` on success.

    On an exception the half-written file is removed and `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=SCRATCH, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes UTF-8 with bare newlines in one step, on the disk before it is renamed."""
    with (
        replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(path)


def write_bytes(path: str | os.PathLike, content: bytes) -> Path:
    """Writes `content` to `path` in one step."""
    with replacing(path) as partial:
        partial.write_bytes(content)
    return Path(path)


def read_rows(path: str | os.PathLike, by: str) -> dict[str, dict]:
    """Reads the objects of a JSON-lines file under their value of the key `by`.

    Of equal ones the last, none without a file. A line that a killed run cut is left
    out.
    """
    rows: dict[str, dict] = {}
    path = Path(path)
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row[by]] = row
    return rows


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON file that holds an object; {} where there is none to be read."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sha256(path: str | os.PathLike) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
