"""Points to begin from, read out of a PLY file: a point cloud, a mesh or splats.

Any dialect of PLY (files/ply_tables.py) with x y z (world units) and, if there are any,
colours: red green blue (also diffuse_*, r g b) as integers or floats, or the f_dc_* of
splats (exports/ply.py). Of a mesh the points are its vertices.
"""

from __future__ import annotations

import os

import numpy as np

from sdsjax.files.ply_tables import TURNED, PlyError, read_vertices
from sdsjax.render.spherical_harmonics import C0

COLOURS = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)


def read_points(path: str | os.PathLike) -> np.ndarray:
    """Points [n 3], or points and rgb in [0, 1] [n 6], float32.

    Raises PlyError, in one line, for anything that holds no such points.
    """
    table = read_vertices(path)
    try:
        points = _points(table.columns)
    except PlyError as error:
        raise PlyError(f"{path}: {error}") from None
    if TURNED in table.comments:
        points[:, 1:3] *= -1  # our own splats are written with y down
    return points


def _rgb(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    # Bytes run to 255 whatever integer holds them, and so do floats where a program
    # kept the bytes' range; other floats run to 1, and rounding may lead a little past.
    top = 255 if kind.kind in "ui" or values.max(initial=0) > 2 else 1
    if kind.kind in "ui" and values.max(initial=0) > 255:
        top = np.iinfo(kind).max
    return np.clip(values / np.float32(top), 0, 1)


def _points(table: dict[str, np.ndarray]) -> np.ndarray:
    def stack(wanted: tuple[str, ...]) -> np.ndarray:
        with np.errstate(over="ignore"):  # a double that is too large is not finite
            return np.stack([table[name].astype("f4") for name in wanted], axis=1)

    parts = [stack(("x", "y", "z"))]
    dc = ("f_dc_0", "f_dc_1", "f_dc_2")
    rgb = next((columns for columns in COLOURS if set(columns) <= set(table)), None)
    if rgb is not None:
        parts.append(_rgb(stack(rgb), table[rgb[0]].dtype))
    elif set(dc) <= set(table):
        parts.append(np.clip(np.float32(C0) * stack(dc) + np.float32(0.5), 0, 1))
    points = np.concatenate(parts, axis=1)
    if not np.isfinite(points).all():
        raise PlyError("values that are not finite")
    return points
