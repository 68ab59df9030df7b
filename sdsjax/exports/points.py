"""Points to begin from, read out of a PLY file: a point cloud or splats.

One `vertex` element, binary little-endian, with x y z (world units) and, if there are
any, colours: red green blue as uint8, or the f_dc_* of splats (exports/ply.py). The
file is untrusted: its header is capped and its sizes are checked before anything is
allocated.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sdsjax.exports.ply import MAX_HEADER_BYTES, PlyError, parse_header
from sdsjax.render.spherical_harmonics import C0


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


def _points(table: np.ndarray) -> np.ndarray:
    names = table.dtype.names or ()

    def stack(wanted: tuple[str, ...]) -> np.ndarray:
        return np.stack([table[name].astype(np.float32) for name in wanted], axis=1)

    if not {"x", "y", "z"} <= set(names):
        raise PlyError(f"no columns x, y, z among {', '.join(names[:8])}")
    parts = [stack(("x", "y", "z"))]
    rgb, dc = ("red", "green", "blue"), ("f_dc_0", "f_dc_1", "f_dc_2")
    if all(name in names and table.dtype[name] == np.uint8 for name in rgb):
        parts.append(stack(rgb) / 255)
    elif set(dc) <= set(names):
        parts.append(np.clip(np.float32(C0) * stack(dc) + np.float32(0.5), 0, 1))
    points = np.concatenate(parts, axis=1)
    if not np.isfinite(points).all():
        raise PlyError("values that are not finite")
    return points
