"""Points to begin from, read out of a PLY file: a point cloud or splats.

One `vertex` element, binary little-endian, with x y z (world units) and, if there are
any, colours: red green blue (also diffuse_*, r g b) as bytes or floats, or the f_dc_*
of splats (exports/ply.py). The file is untrusted: its header is capped and its sizes
are checked before anything is allocated.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sdsjax.exports.ply import MAX_HEADER_BYTES, PlyError, parse_header
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
    path = Path(path)
    if not path.is_file():
        raise PlyError(f"{path}: no such file")
    try:
        with open(path, "rb") as stream:
            header = parse_header(stream.read(MAX_HEADER_BYTES))
            left = path.stat().st_size - header.offset
            expected = header.count * header.dtype.itemsize
            if left != expected or not header.count:
                raise PlyError(
                    f"{header.count} rows of {header.dtype.itemsize} bytes need "
                    f"{expected} bytes, the file holds {left}"
                )
            stream.seek(header.offset)
            table = np.frombuffer(stream.read(expected), header.dtype)
        points = _points(table)
    except PlyError as error:
        raise PlyError(f"{path}: {error}") from None
    return points


def _rgb(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    # bytes run to 255, floats to 1, or to 255 where a program kept the bytes' range
    if kind.kind in "ui":
        return values / np.float32(np.iinfo(kind).max)
    return np.clip(values / (255 if values.max(initial=0) > 1 else 1), 0, 1)


def _points(table: np.ndarray) -> np.ndarray:
    names = table.dtype.names or ()

    def stack(wanted: tuple[str, ...]) -> np.ndarray:
        return np.stack([table[name].astype(np.float32) for name in wanted], axis=1)

    if not {"x", "y", "z"} <= set(names):
        raise PlyError(f"no columns x, y, z among {', '.join(names[:8])}")
    parts = [stack(("x", "y", "z"))]
    dc = ("f_dc_0", "f_dc_1", "f_dc_2")
    rgb = next((columns for columns in COLOURS if set(columns) <= set(names)), None)
    if rgb is not None:
        parts.append(_rgb(stack(rgb), table.dtype[rgb[0]]))
    elif set(dc) <= set(names):
        parts.append(np.clip(np.float32(C0) * stack(dc) + np.float32(0.5), 0, 1))
    points = np.concatenate(parts, axis=1)
    if not np.isfinite(points).all():
        raise PlyError("values that are not finite")
    return points
