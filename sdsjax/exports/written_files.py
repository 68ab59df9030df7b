"""The files of one run as they are written, and the small formats: PNG, JSON.

A writer that fails becomes a warning: an export never fails a run.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdsjax.exports.video import to_bytes
from sdsjax.files.atomic import replacing, sha256, write_bytes


def write_image(path: Path, image: np.ndarray) -> Path:
    """Writes `[h w 3]` in [0, 1] (or uint8) as PNG, in one step."""
    from PIL import Image

    pixels = image if image.dtype == np.uint8 else to_bytes(image)
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="PNG")
    return path


def _plain(value: Any) -> Any:
    """Makes numbers, lists and dicts that JSON can hold; not-a-number becomes null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (str, bool, int, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if np.ndim(value) > 0:
        return _plain(np.asarray(value).tolist())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None


def write_json(path: Path, content: Mapping) -> Path:
    """Writes JSON that any reader accepts (no NaN), in one step."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    return write_bytes(path, text.encode("utf-8"))


def find_previews(workdir: Path) -> list[tuple[int, Path]]:
    """Finds (step, picture) of the previews below `workdir`.

    The step is the last number in a picture's name.
    """
    found = []
    for path in (workdir / "previews").glob("*.png"):
        digits = re.findall(r"\d+", path.stem)
        if digits:
            found.append((int(digits[-1]), path))
    return sorted(found)


class WrittenFiles:
    """The files of one run as they come about, and what went wrong.

    Fields: paths: name -> file; warnings: lines; seconds: name -> what it took.
    """

    def __init__(self, workdir: Path, warnings: Sequence[str]):
        self.workdir = workdir
        self.paths: dict[str, Path] = {}
        self.warnings = list(warnings)
        self.seconds: dict[str, float] = {}

    def attempt(self, name: str, write: Callable[[], Any]) -> Any:
        """Runs one writer; what it raises becomes a warning."""
        start = time.perf_counter()
        try:
            return write()
        # An export may fail in any way; the run and its report must survive.
        except Exception as error:
            line = str(error).strip().splitlines() or [type(error).__name__]
            self.warnings.append(f"{name} was not written: {line[0]}")
            return None
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 2)

    def keep(self, name: str, write: Callable[[], Path]) -> None:
        """Runs one writer as `attempt` does, and remembers the path that it wrote."""
        path = self.attempt(name, write)
        if path is not None:
            self.paths[name] = path

    def artifacts(self) -> dict[str, dict]:
        """Describes the files so far: name, size in bytes, sha256."""
        return {
            name: {"file": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)}
            for name, p in self.paths.items()
        }
