"""The files of one run as they are written, and the small formats: PNG, JSON.

A writer that fails keeps no other from its turn: it becomes a warning, and what could
not be made for a reason outside the asset is named in an ExportError at the end.
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
from sdsjax.runs.disk_errors import in_words
from sdsjax.runs.exit_status import ExitStatus

# What a run may leave behind, under the names that it has always had.
KNOWN = ("turntable.mp4", "turntable.webp", "splats.ply", "mesh.glb", "views.png")
KNOWN += ("splats.glb", "image.png", "particles.png", "metrics.json", "report.html")


class ExportError(RuntimeError):
    """Files of a run could not be written; the message is one line."""

    exit_code = ExitStatus.EXPORTS


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

    Fields: paths: name -> file; warnings: lines; missing: what could not be written and
    can be another time; seconds: name -> what it took.
    """

    def __init__(
        self,
        workdir: Path,
        warnings: Sequence[str],
        announce: Callable[[str], None] | None = None,
    ):
        self.workdir = workdir
        self.announce = announce or (lambda line: None)
        self.paths: dict[str, Path] = {}
        self.warnings = list(warnings)
        self.missing: list[str] = []
        self.seconds: dict[str, float] = {}

    def warn(self, line: str) -> None:
        """Keeps a warning, and says it at once."""
        self.warnings.append(line)
        self.announce(line)

    def attempt(
        self,
        name: str,
        write: Callable[[], Any],
        *,
        absent: type[Exception] | tuple[()] = (),
    ) -> Any:
        """Runs one writer; what it raises becomes a warning.

        absent: what a writer raises for an asset that has nothing of the kind, so that
        nothing is missing.
        """
        start = time.perf_counter()
        try:
            return write()
        # An export may fail in any way; the others and the report must survive.
        except Exception as error:
            if not isinstance(error, absent):
                self.missing.append(name)
            self.warn(f"{name} was not written: {in_words(error)}")
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 2)
        return None

    def keep(self, name: str, write: Callable[[], Path]) -> None:
        """Runs one writer as `attempt` does, and remembers the path that it wrote."""
        path = self.attempt(name, write)
        if path is not None:
            self.paths[name] = path

    def outdated(self) -> list[Path]:
        """Finds what an earlier step left under a name that was not written now."""
        names = [*KNOWN, *(p.name for p in self.workdir.glob("splats-*.ply"))]
        written = {path.name for path in self.paths.values()}
        found = [self.workdir / name for name in names if name not in written]
        return [path for path in found if path.is_file()]

    def remove_outdated(self, kinds: Sequence[str] = ()) -> None:
        """Removes what is outdated, of the files with these names (default: all)."""
        gone = [p for p in self.outdated() if not kinds or p.name in kinds]
        for path in gone:
            self.attempt(f"the removal of {path.name}", path.unlink)
        removed = [path.name for path in gone if not path.exists()]
        if removed:
            self.warn(f"removed what showed an earlier state: {', '.join(removed)}")

    def artifacts(self) -> dict[str, dict]:
        """Describes the files so far: name, size in bytes, sha256."""
        return {
            name: {"file": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)}
            for name, p in self.paths.items()
        }
