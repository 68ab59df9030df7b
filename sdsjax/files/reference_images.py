"""Given pictures from disk: one of an object, or a folder of them with their cameras.

One file has the camera that the caller names; a folder has cameras.json or
transforms.json (given_cameras.py says what is in them). What cuts the object out, and
what a picture may be: pictures.py. A folder's pictures that are not square are padded,
and their cameras with them. Every mistake raises BadReference with one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.cameras import Camera
from sdsjax.files.given_cameras import (
    CAMERAS,
    LIMITS,
    Lens,
    Orbit,
    Shot,
    fitted_shots,
    list_of_cameras,
    orbit_shot,
    read_shots,
)
from sdsjax.files.pictures import (
    BadReference,
    background_colour,
    fitted,
    read_rgba,
    read_straight,
    resize,
    share_of_frame,
    squared,
)

__all__ = [
    "CAMERAS",
    "LIMITS",
    "BadReference",
    "Orbit",
    "Reference",
    "files_of_reference",
    "read_picture",
    "read_reference",
    "reference_of",
]


class Reference(NamedTuple):
    """Given pictures of an object, n of them, with their cameras.

    rgb [n h w 3] as on black (already times the mask), mask [n h w], cameras [n],
    disparity [n h w] as a prior estimates it, or None.
    """

    rgb: jax.Array
    mask: jax.Array
    cameras: Camera
    disparity: jax.Array | None = None


def read_picture(
    path: Path,
    size: int,
    *,
    background: tuple[float, ...] | None = None,
    fit: float | None = None,
) -> np.ndarray:
    """Reads rgba [size size 4] in [0, 1] of one picture, rgb already times alpha.

    background: the colour of a flat one, see `pictures.read_rgba`; fit: the share of
    the frame that the object is cropped, padded and centred to; None: as it is.

    Raises BadReference, for a picture that is not square where it is taken as it is.
    """
    rgba = read_rgba(path, background)
    if fit is not None:
        return fitted(rgba, fit, size)
    high, wide = rgba.shape[:2]
    if high != wide:
        raise BadReference(
            f"{path} is {wide} x {high}: it must be square, with the object in the "
            "middle; pass --config.reference.fit=true, or crop or pad it"
        )
    return resize(rgba, size)


def _padded(
    shot: Shot, size: int, background: tuple[float, ...] | None
) -> tuple[np.ndarray, Camera]:
    """Reads a folder's picture as a square [size size 4], and its camera."""
    rgba = _masked(shot, background)
    lens = shot.lens_over(rgba.shape[1], rgba.shape[0])
    square, added = squared(rgba)
    return resize(square, size), _camera(shot, lens, added, size / len(square))


def _camera(shot: Shot, lens: Lens, added: tuple[int, int], scale: float) -> Camera:
    """Returns a shot's camera over the square that `added` (left, top) px made of it.

    scale: of that square's pixels.
    """
    side = round(scale * max(lens.width, lens.height))
    principal = [(c + more) * scale for c, more in zip(lens.principal, added)]
    return Camera(
        world_to_camera=jnp.asarray(shot.world_to_camera, jnp.float32),
        focal=jnp.asarray([scale * length for length in lens.focal], jnp.float32),
        principal=jnp.asarray(principal, jnp.float32),
        width=side,
        height=side,
    )


def _masked(shot: Shot, background: tuple[float, ...] | None) -> np.ndarray:
    """Reads a picture and, where it has one, the mask that cuts the object out."""
    if shot.mask is None:
        return read_rgba(shot.file, background)
    straight, mask = read_straight(shot.file), read_straight(shot.mask)
    if mask.shape != straight.shape:
        raise BadReference(f"{shot.mask} has another size than {shot.file}")
    kept = straight[..., 3:] * (mask[..., :3].max(axis=-1, keepdims=True) > 0.5)
    return np.concatenate([straight[..., :3] * kept, kept], axis=-1)


def files_of_reference(path: str | Path) -> list[Path]:
    """Lists the files that `read_reference` reads: one, or the cameras and pictures.

    Raises BadReference for a folder whose cameras cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return [path]
    shots = read_shots(path)
    files = [shot.file for shot in shots] + [shot.mask for shot in shots if shot.mask]
    return [list_of_cameras(path), *dict.fromkeys(files)]


def read_reference(
    path: str | Path,
    size: int,
    orbit: Orbit = Orbit(),
    *,
    background: str = "",
    fit: bool = False,
) -> Reference:
    """The pictures of a file, seen from `orbit`, or of a folder, at size x size.

    background: "white", "black" or "r,g,b" of a flat one; fit: whether a single
    picture's object is moved and scaled to where training views show it, or, of a
    folder, the world in which its cameras stand.

    Raises BadReference for a missing or unreadable file, a picture whose object nothing
    cuts out, or that is not square, and for a bad camera.
    """
    path = Path(path).expanduser()
    colour = background_colour(background)
    if not path.is_dir():
        share = share_of_frame(orbit.distance, orbit.fov) if fit else None
        rgba = read_picture(path, size, background=colour, fit=share)
        shot = orbit_shot(path, orbit)
        camera = _camera(shot, shot.lens_over(size, size), (0, 0), 1.0)
        return reference_of(rgba[None], [camera])
    shots = read_shots(path)
    if fit:
        shots = fitted_shots(shots, Orbit().distance, Orbit().fov)
    pairs = [_padded(shot, size, colour) for shot in shots]
    return reference_of(np.stack([rgba for rgba, _ in pairs]), [c for _, c in pairs])


def reference_of(rgba: np.ndarray, cameras: list[Camera]) -> Reference:
    """A Reference of premultiplied rgba [n s s 4] and n cameras of that size."""
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *cameras)
    rgba = np.clip(rgba, 0.0, 1.0)
    rgb, mask = jax.device_put((rgba[..., :3], rgba[..., 3]))
    return Reference(rgb, mask, jax.device_put(batch))
