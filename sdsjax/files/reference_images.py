"""Given pictures from disk: one RGBA image, or a folder of them with their cameras.

A picture is square, with an alpha channel that cuts the object out. One file has the
camera that the caller names. A folder holds `cameras.json`:

    {"fov": 40, "views": [
        {"file": "front.png", "azimuth": 0, "elevation": 15, "distance": 3.1},
        {"file": "side.png", "azimuth": 90, "elevation": 15, "distance": 3, "fov": 35},
        {"file": "free.png", "world_to_camera": [[1, 0, 0, 0], ...4 rows]}]}

with angles in degrees (azimuth 0 sees the front, +90 the object's own left side), fov
vertical, distances in world units (the object fits the unit ball), and world_to_camera
in OpenCV axes (x right, y down, z forward); azimuth and elevation not given are 0, the
distance 3.1. The principal point is the middle; pictures
of a folder have one size. Every mistake raises BadReference with one line.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from sdsjax.cameras import Camera, orbit_camera

CAMERAS = "cameras.json"
MOST_VIEWS = 512
MOST_BYTES = 1 << 20  # of cameras.json
MOST_PIXELS = 1 << 26  # of a picture


# Pillow raises SyntaxError and struct.error for damage inside a PNG.
UNREADABLE = (
    *(OSError, SyntaxError, EOFError, struct.error),
    Image.DecompressionBombError,
)


class Reference(NamedTuple):
    """Given pictures of an object, n of them, with their cameras.

    rgb [n h w 3] as on black (already times the mask), mask [n h w], cameras [n],
    disparity [n h w] as a prior estimates it, or None.
    """

    rgb: jax.Array
    mask: jax.Array
    cameras: Camera
    disparity: jax.Array | None = None


class BadReference(ValueError):
    """A given picture or camera cannot be used; the message is one line."""


class Orbit(NamedTuple):
    """A camera that looks at the origin: degrees and world units."""

    azimuth: float = 0.0
    elevation: float = 0.0
    distance: float = 3.1
    fov: float = 40.0


LIMITS = {
    "azimuth": (-360.0, 360.0),
    "elevation": (-90.0, 90.0),
    "distance": (0.1, 100.0),
    "fov": (1.0, 170.0),
}


def read_picture(path: Path, size: int) -> np.ndarray:
    """Reads rgba [size size 4] in [0, 1], rgb already times alpha.

    Raises BadReference.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadReference(f"{path} has more than {MOST_PIXELS} pixels")
            # phones store a turn beside the pixels instead of turning them
            image = ImageOps.exif_transpose(image)
            if image.width != image.height:
                raise BadReference(
                    f"{path} is {image.width} x {image.height}: it must be square, "
                    "with the object in the middle; crop or pad it"
                )
            if "A" not in image.mode and "transparency" not in image.info:
                raise BadReference(
                    f"{path} has no alpha channel (mode {image.mode}): cut the object "
                    "out and save it as an RGBA PNG"
                )
            rgba = np.asarray(image.convert("RGBA"), np.float32) / 255.0
            if rgba[..., 3].min() == 1.0:
                raise BadReference(
                    f"{path} has an alpha channel that is opaque everywhere: cut the "
                    "object out and save it as an RGBA PNG"
                )
    except FileNotFoundError:
        raise BadReference(f"the reference {path} does not exist") from None
    except UNREADABLE as error:
        said = " ".join(str(error).split())
        raise BadReference(f"{path} is not a readable picture: {said}") from None
    if rgba[..., 3].max() <= 0.5:
        raise BadReference(f"{path} shows nothing: its alpha is nowhere above one half")
    rgba[..., :3] *= rgba[..., 3:]
    return resize(rgba, size)


def resize(rgba: np.ndarray, size: int) -> np.ndarray:
    """Resizes premultiplied rgba [s s 4]: averaged down, bilinear up."""
    if rgba.shape[0] == size:
        return rgba
    channels = [
        Image.fromarray(np.ascontiguousarray(rgba[..., c])).resize(
            (size, size), Image.Resampling.BILINEAR
        )
        for c in range(4)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _number(where: str, entry: dict, name: str, default: float) -> float:
    value = entry.get(name, default)
    low, high = LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadReference(f"{where}: {name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise BadReference(f"{where}: {name} = {value} must be in {low:g}..{high:g}")
    return float(value)


def camera_of(where: str, entry: dict, fov: float, size: int) -> Camera:
    """The camera of one entry of `views`. Raises BadReference."""
    fov = _number(where, entry, "fov", fov)
    if "world_to_camera" not in entry:
        angles = [
            _number(where, entry, name, default)
            for name, default in zip(Orbit._fields[:3], Orbit())
        ]
        return orbit_camera(*angles, fov=fov, width=size, height=size)
    try:
        matrix = np.asarray(entry["world_to_camera"], np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    rigid = matrix.shape == (4, 4) and np.isfinite(matrix).all()
    if rigid:
        turn = matrix[:3, :3]
        rigid = (
            np.allclose(turn @ turn.T, np.eye(3), atol=1e-3)
            and np.linalg.det(turn) > 0
            and np.allclose(matrix[3], (0, 0, 0, 1))
        )
    if not rigid:
        raise BadReference(
            f"{where}: world_to_camera must be 4 rows of 4 numbers, a rotation and a "
            "shift: [R t; 0 0 0 1]"
        )
    focal = 0.5 * size / math.tan(0.5 * math.radians(fov))
    return Camera(
        world_to_camera=jnp.asarray(matrix, jnp.float32),
        focal=jnp.full(2, focal, jnp.float32),
        principal=jnp.full(2, 0.5 * size, jnp.float32),
        width=size,
        height=size,
    )


def _entries(path: Path) -> tuple[list[dict], float]:
    """(views, fov) of a cameras.json. Raises BadReference."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadReference(f"{path} is larger than {MOST_BYTES} bytes")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadReference(
            f"the folder {path.parent} holds no {CAMERAS}: write one, or pass a single "
            "RGBA picture"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise BadReference(f"{path} is not readable JSON: {said}") from None
    views = content.get("views") if isinstance(content, dict) else None
    if not isinstance(views, list) or not 1 <= len(views) <= MOST_VIEWS:
        raise BadReference(
            f'{path} must be {{"fov": degrees, "views": [...]}} with 1 to {MOST_VIEWS} '
            "views"
        )
    for index, entry in enumerate(views):
        name = entry.get("file") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
            raise BadReference(
                f"{path}, view {index}: 'file' must name a picture in the same folder"
            )
    return views, _number(str(path), content, "fov", Orbit().fov)


def files_of_reference(path: str | Path) -> list[Path]:
    """Lists the files that `read_reference` reads: one, or cameras.json and its views.

    Raises BadReference for a folder whose cameras.json cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return [path]
    views, _ = _entries(path / CAMERAS)
    return [path / CAMERAS, *dict.fromkeys(path / view["file"] for view in views)]


def read_reference(path: str | Path, size: int, orbit: Orbit = Orbit()) -> Reference:
    """The pictures of a file, seen from `orbit`, or of a folder, at size x size.

    Raises BadReference for a missing or unreadable file, a picture without alpha, of a
    shape that is not square or (in a folder) not the others', and for a bad camera.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        entries = [{"file": path.name, **orbit._asdict()}]
        folder, fov, listing = path.parent, orbit.fov, str(path)
    else:
        folder, listing = path, str(path / CAMERAS)
        entries, fov = _entries(path / CAMERAS)
    pictures, cameras, sides = [], [], {}
    for index, entry in enumerate(entries):
        where = f"{listing}, view {index}" if path.is_dir() else "reference"
        cameras.append(camera_of(where, entry, fov, size))
        file = folder / entry["file"]
        pictures.append(read_picture(file, size))
        with Image.open(file) as image:
            sides.setdefault(image.width, file.name)
    if len(sides) > 1:
        (a, first), (b, second), *_ = sides.items()
        raise BadReference(
            f"{path}: {first} is {a} pixels wide and {second} {b}: give all pictures "
            "one size"
        )
    return reference_of(np.stack(pictures), cameras)


def reference_of(rgba: np.ndarray, cameras: list[Camera]) -> Reference:
    """A Reference of premultiplied rgba [n s s 4] and n cameras of that size."""
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cameras)
    rgba = np.clip(rgba, 0.0, 1.0)
    return Reference(jnp.asarray(rgba[..., :3]), jnp.asarray(rgba[..., 3]), batch)
