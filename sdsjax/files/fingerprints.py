"""Fingerprints of files, so that one that was changed between two sessions is noticed.

A small file is hashed whole. A large one (weights of gigabytes) by its size and by
pieces spread evenly from its first byte to its last: a file of safetensors begins with
the shapes of all its tensors, and another training changes every tensor.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from sdsjax.files.atomic import sha256

WHOLE_BYTES = 16 << 20  # files up to this size are hashed whole
PIECES, PIECE_BYTES = 64, 64 << 10  # of larger ones


def fingerprint(path: str | os.PathLike) -> str:
    """Fingerprints one file, in words such as "sha256:2c26...". Raises OSError."""
    size = os.stat(path).st_size
    if size <= WHOLE_BYTES:
        return f"sha256:{sha256(path)}"
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in range(PIECES):
            file.seek((size - PIECE_BYTES) * piece // (PIECES - 1))
            total.update(file.read(PIECE_BYTES))
    return f"size:{size},pieces:{total.hexdigest()}"


def fingerprints(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Fingerprints the files among `paths` that can be read.

    Under their names relative to `root`, sorted; one that is not there is left out.
    """
    found = {}
    for path in sorted(paths):
        try:
            found[path.relative_to(root).as_posix()] = fingerprint(path)
        except OSError:
            continue
    return found


def changes(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Lists what differs, as "reference.path: mug.png has changed".

    Both hold fingerprints by the config's key and the file's name; a key that one of
    them lacks, or has no file for, is not compared.
    """
    lines = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if not old or not new:
            continue
        for name in sorted({*old, *new}):
            if name not in new:
                lines.append(f"{key}: {name} is gone")
            elif name not in old:
                lines.append(f"{key}: {name} is new")
            elif old[name] != new[name]:
                lines.append(f"{key}: {name} has changed")
    return lines
