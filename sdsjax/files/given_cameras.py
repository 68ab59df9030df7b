"""The cameras of given pictures: our own cameras.json, or others' transforms.json.

`cameras.json` (angles in degrees; azimuth 0 sees the front, +90 the object's own left
side; fov vertical; distances in world units, the object in the unit ball;
world_to_camera in OpenCV axes: x right, y down, z forward; azimuth and elevation not
given are 0, the distance 3.1; the principal point is the middle):

    {"fov": 40, "views": [
        {"file": "front.png", "azimuth": 0, "elevation": 15, "distance": 3.1},
        {"file": "side.png", "azimuth": 90, "elevation": 15, "distance": 3, "fov": 35},
        {"file": "free.png", "world_to_camera": [[1, 0, 0, 0], ...4 rows]}]}

`transforms.json` as nerfstudio, instant-ngp and the NeRF synthetic scenes have it:
`frames` of a file_path and a transform_matrix, camera to world in OpenGL axes (x right,
y up, looking along -z) in a world whose z is up; focal lengths in pixels (fl_x, fl_y,
cx, cy, w, h) or camera_angle_x in radians, for all or for each. Our world is y up, the
front along +z, so that their (x, y, z) is our (x, z, -y). Every mistake raises
BadReference with one line.
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from sdsjax.cameras import orbit_camera
from sdsjax.files.pictures import BadReference

CAMERAS = "cameras.json"
TRANSFORMS = "transforms.json"
MOST_VIEWS = 512
MOST_BYTES = 1 << 24  # of a list of cameras
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # of a file_path that names none
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
# OpenGL's camera axes -> OpenCV's; a world with z up -> ours with y up
OPENCV_OF_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
Y_UP_OF_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


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


class Lens(NamedTuple):
    """A pinhole over a picture of width x height: focal and principal in its pixels."""

    focal: tuple[float, float]
    principal: tuple[float, float]
    width: int
    height: int


class Shot(NamedTuple):
    """One given picture and how it was taken.

    file; world_to_camera [4 4], OpenCV axes; fov: vertical, degrees, where there is no
    lens; mask: a picture that is black where there is no object, or None.
    """

    file: Path
    world_to_camera: np.ndarray
    fov: float = 40.0
    lens: Lens | None = None
    mask: Path | None = None

    def lens_over(self, width: int, height: int) -> Lens:
        """Returns the lens in the pixels of a picture of this size.

        Raises BadReference where its shape is not the one that the cameras name.
        """
        if self.lens is None:
            focal = 0.5 * height / math.tan(0.5 * math.radians(self.fov))
            return Lens((focal, focal), (0.5 * width, 0.5 * height), width, height)
        known = self.lens
        across, down = width / known.width, height / known.height
        if abs(across - down) > 0.02 * across:
            raise BadReference(
                f"{self.file} is {width} x {height}, and its camera is of a picture of "
                f"{known.width} x {known.height}"
            )
        (fx, fy), (cx, cy) = known.focal, known.principal
        return Lens((fx * across, fy * down), (cx * across, cy * down), width, height)


def orbit_shot(file: Path, orbit: Orbit) -> Shot:
    """Returns the shot of a picture that was taken from an orbit."""
    camera = orbit_camera(*orbit[:3], fov=orbit.fov, width=1, height=1)
    return Shot(file, np.asarray(camera.world_to_camera, np.float64), orbit.fov)


def list_of_cameras(folder: Path) -> Path:
    """Returns the file that lists a folder's cameras. Raises BadReference."""
    for name in (CAMERAS, TRANSFORMS):
        if (folder / name).is_file():
            return folder / name
    raise BadReference(
        f"the folder {folder} holds no {CAMERAS} and no {TRANSFORMS}: write one, or "
        "pass a single RGBA picture"
    )


def read_shots(folder: Path) -> list[Shot]:
    """Reads the shots of a folder. Raises BadReference."""
    path = list_of_cameras(folder)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadReference(f"{path} is larger than {MOST_BYTES} bytes")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, BadReference):
            raise
        said = " ".join(str(error).split())
        raise BadReference(f"{path} is not readable JSON: {said}") from None
    key = "views" if path.name == CAMERAS else "frames"
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_VIEWS:
        raise BadReference(
            f'{path} must be {{..., "{key}": [...]}} with 1 to {MOST_VIEWS} {key}'
        )
    read = _view if path.name == CAMERAS else _frame
    return [read(path, index, entry, content) for index, entry in enumerate(entries)]


def _number(where: str, entry: dict, name: str, default: float) -> float:
    value = entry.get(name, default)
    low, high = LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadReference(f"{where}: {name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise BadReference(f"{where}: {name} = {value} must be in {low:g}..{high:g}")
    return float(value)


def _rigid(where: str, name: str, value: Any) -> np.ndarray:
    """Returns a matrix [4 4] that turns and shifts. Raises BadReference."""
    try:
        matrix = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape == (3, 4):  # as some programs leave the last row out
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    rigid = matrix.shape == (4, 4) and bool(np.isfinite(matrix).all())
    if rigid:
        turn = matrix[:3, :3]
        rigid = (
            np.allclose(turn @ turn.T, np.eye(3), atol=1e-3)
            and np.linalg.det(turn) > 0
            and np.allclose(matrix[3], (0, 0, 0, 1))
        )
    if not rigid:
        raise BadReference(
            f"{where}: {name} must be 4 rows of 4 numbers, a rotation and a shift: "
            "[R t; 0 0 0 1]"
        )
    return matrix


def _view(path: Path, index: int, entry: Any, content: dict) -> Shot:
    """Reads one of `views` of a cameras.json. Raises BadReference."""
    where = f"{path}, view {index}"
    name = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise BadReference(f"{where}: 'file' must name a picture in the same folder")
    fov = _number(where, entry, "fov", _number(str(path), content, "fov", Orbit().fov))
    file = path.parent / name
    if "world_to_camera" in entry:
        matrix = entry["world_to_camera"]
        return Shot(file, _rigid(where, "world_to_camera", matrix), fov)
    angles = [
        _number(where, entry, name, default)
        for name, default in zip(Orbit._fields[:3], Orbit())
    ]
    return orbit_shot(file, Orbit(*angles, fov=fov))


def _inside(where: str, path: Path, entry: dict, key: str) -> Path:
    """Returns the file below the folder that an entry names. Raises BadReference."""
    name = entry.get(key)
    if not isinstance(name, str) or not name or "\0" in name:
        raise BadReference(f"{where}: {key!r} must name a picture below {path.parent}")
    parts = PurePosixPath(name.replace("\\", "/"))
    file = path.parent / parts
    found = next(
        (f for f in (file, *(file.with_name(file.name + s) for s in SUFFIXES))
         if f.is_file()),
        file,
    )  # fmt: skip
    root = path.parent.resolve()
    if (
        parts.is_absolute()
        or ".." in parts.parts
        or not (found.resolve().is_relative_to(root))
    ):
        raise BadReference(
            f"{where}: {key!r} leads out of {path.parent}: pictures must lie below it"
        )
    return found


def _frame(path: Path, index: int, entry: Any, content: dict) -> Shot:
    """Reads one of `frames` of a transforms.json. Raises BadReference."""
    where = f"{path}, frame {index}"
    if not isinstance(entry, dict):
        raise BadReference(f"{where} must be an object with a file_path")
    file = _inside(where, path, entry, "file_path")
    mask = _inside(where, path, entry, "mask_path") if "mask_path" in entry else None
    pose = _rigid(where, "transform_matrix", entry.get("transform_matrix"))
    said = {**content, **entry}
    model = said.get("camera_model", "PINHOLE")
    bent = [k for k in DISTORTION if said.get(k)]
    if model not in ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV") or bent:
        raise BadReference(
            f"{where}: a camera that bends lines ({', '.join(bent) or model}) is no "
            "pinhole: undistort the pictures (COLMAP's image_undistorter does)"
        )
    world_to_camera = OPENCV_OF_OPENGL @ np.linalg.inv(Y_UP_OF_Z_UP @ pose)
    return Shot(file, world_to_camera, lens=_lens(where, file, said), mask=mask)


def _lens(where: str, file: Path, said: dict) -> Lens:
    """Reads the lens of a frame: focal lengths in pixels, or angles in radians."""

    def number(name: str) -> float | None:
        value = said.get(name)
        if value is None:
            return None
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or value <= 0:
            raise BadReference(f"{where}: {name} must be a positive number")
        return float(value)

    width, height = number("w"), number("h")
    if width is None or height is None:
        width, height = _size_of(where, file)
    focal = []
    for pixels, angle, side in (
        ("fl_x", "camera_angle_x", width),
        ("fl_y", "camera_angle_y", height),
    ):
        length, wide = number(pixels), number(angle)
        if length is None and wide is not None and wide < math.pi:
            length = 0.5 * side / math.tan(0.5 * wide)
        focal.append(length)
    fx, fy = focal[0] or focal[1], focal[1] or focal[0]
    if fx is None or fy is None:
        raise BadReference(
            f"{where}: no focal length: give fl_x in pixels or camera_angle_x in "
            "radians, below pi"
        )
    cx, cy = number("cx") or 0.5 * width, number("cy") or 0.5 * height
    return Lens((fx, fy), (cx, cy), int(width), int(height))


def _size_of(where: str, file: Path) -> tuple[float, float]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return float(image.width), float(image.height)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        said = "does not exist" if missing else "is not a readable picture"
        raise BadReference(f"{where}: {file} {said}") from None


def fitted_shots(shots: list[Shot], distance: float, fov: float) -> list[Shot]:
    """Moves the world so that the cameras show its origin as training views do.

    The point that the cameras look at (nearest to all optical axes, by least squares)
    becomes the origin; what their distances span of the frame in the middle of them is
    scaled to `distance` world units at a vertical `fov` in degrees.
    """
    turns = np.stack([shot.world_to_camera[:3, :3] for shot in shots])
    shifts = np.stack([shot.world_to_camera[:3, 3] for shot in shots])
    centres = -np.einsum("nji,nj->ni", turns, shifts)
    axes = turns[:, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    place, *_ = np.linalg.lstsq(
        across.sum(axis=0), np.einsum("nij,nj->i", across, centres), rcond=None
    )
    spans = [
        np.linalg.norm(centre - place) * _tangent(shot)
        for centre, shot in zip(centres, shots)
    ]
    span = max(float(np.median(spans)), 1e-9)
    scale = distance * math.tan(0.5 * math.radians(fov)) / span
    moved = []
    for shot, turn, centre in zip(shots, turns, centres):
        pose = np.eye(4)
        pose[:3, :3] = turn
        pose[:3, 3] = -turn @ (scale * (centre - place))
        moved.append(shot._replace(world_to_camera=pose))
    return moved


def _tangent(shot: Shot) -> float:
    """Returns the tangent of half the smaller angle of view."""
    if shot.lens is None:
        return math.tan(0.5 * math.radians(shot.fov))
    lens = shot.lens
    return min(lens.width / lens.focal[0], lens.height / lens.focal[1]) / 2
