"""Gaussian splats as PLY, in the layout of the 3D Gaussian Splatting code.

One `vertex` element, binary little-endian float32 (Kerbl et al., arXiv 2308.04079):

    x y z            means, world units (ours: right-handed, y up, front along +z)
    nx ny nz         zeros, there for old readers
    f_dc_0..2        SH coefficient of degree 0, one a channel
    f_rest_*         the other k - 1 coefficients, channel-major: all red, green, blue
    opacity          logit
    scale_0..2       natural logarithm of the standard deviations, world units
    rot_0..3         quaternion w x y z, not necessarily normalised

Only alive rows are written. A file is untrusted input: its header is capped, its sizes
are checked against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sdsjax.files.atomic import replacing
from sdsjax.representations.gaussians import Gaussians

MAX_HEADER_BYTES = 1 << 16
# Coefficients a channel -> the SH degrees 0 to 4.
SH_SIZES = (1, 4, 9, 16, 25)
_TYPES = {
    **dict.fromkeys(("char", "int8"), "<i1"),
    **dict.fromkeys(("uchar", "uint8"), "<u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
}
_MEANS = ("x", "y", "z")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")


class PlyError(ValueError):
    """A splat file (or a set of splats) that cannot be read or written; one line."""


class Header(NamedTuple):
    """How the rows of a PLY file are stored.

    dtype: of one row; count: rows; offset: bytes before the first row.
    """

    dtype: np.dtype
    count: int
    offset: int


def _columns(coefficients: int) -> list[str]:
    rest = [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    normals = ["nx", "ny", "nz"]
    return [*_MEANS, *normals, *_DC, *rest, "opacity", *_SCALES, *_QUATS]


def write_splats(path: str | os.PathLike, gaussians: Gaussians) -> Path:
    """Writes the alive rows of `gaussians`, in one step. Returns the path.

    Raises PlyError when nothing is alive or a value is not finite.
    """
    fields = {name: np.asarray(leaf) for name, leaf in gaussians._asdict().items()}
    alive = fields["alive"].astype(bool)
    if not alive.any():
        raise PlyError(f"{path}: no splat is alive, there is nothing to write")
    rows = {k: v[alive].astype("<f4") for k, v in fields.items() if k != "alive"}
    means, sh = rows["means"], rows["sh"]
    if sh.shape[1] not in SH_SIZES:
        raise PlyError(f"{path}: {sh.shape[1]} SH coefficients; allowed: {SH_SIZES}")
    table = np.concatenate(
        [
            means,
            np.zeros_like(means),
            sh[:, 0],
            sh[:, 1:].transpose(0, 2, 1).reshape(len(means), -1),
            rows["opacity_logits"].reshape(-1, 1),
            rows["log_scales"],
            rows["quats"],
        ],
        axis=1,
    )
    if not np.isfinite(table).all():
        bad = int((~np.isfinite(table)).any(axis=1).sum())
        raise PlyError(f"{path}: {bad} splats hold values that are not finite")
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(means)}"]
    lines += [f"property float {name}" for name in _columns(sh.shape[1])]
    header = "\n".join([*lines, "end_header"]) + "\n"
    with replacing(path) as partial, open(partial, "wb") as stream:
        stream.write(header.encode("ascii"))
        stream.write(table.astype("<f4").tobytes())
    return Path(path)


def parse_header(head: bytes) -> Header:
    """Reads a PLY header from the first bytes of a file (at most MAX_HEADER_BYTES).

    Raises PlyError for anything but one `vertex` element of scalar properties in
    binary little-endian.
    """
    head = head[:MAX_HEADER_BYTES]
    if not head.startswith(b"ply\n"):
        raise PlyError("not a PLY file: it does not begin with 'ply' and a newline")
    end = head.find(b"\nend_header\n")
    if end < 0:
        raise PlyError(f"no 'end_header' in the first {MAX_HEADER_BYTES} bytes")
    try:
        lines = head[:end].decode("ascii").split("\n")[1:]
    except UnicodeDecodeError:
        raise PlyError("the header is not ASCII text") from None
    lines = [n for n in lines if n.split(" ")[0] not in ("comment", "obj_info")]
    if not lines or lines[0] != "format binary_little_endian 1.0":
        raise PlyError("the format must be 'binary_little_endian 1.0'")
    element = re.fullmatch(r"element vertex ([0-9]{1,12})", (lines + [""] * 2)[1])
    if element is None:
        raise PlyError("the first element must be 'vertex' with a count")
    columns: dict[str, str] = {}
    for line in lines[2:]:
        found = re.fullmatch(r"property (\w+) (\w+)", line)
        if found is None or found[1] not in _TYPES:
            raise PlyError(f"not a scalar property of one element: {line[:60]!r}")
        if found[2] in columns:
            raise PlyError(f"the property {found[2][:60]!r} appears twice")
        columns[found[2]] = _TYPES[found[1]]
    if not columns:
        raise PlyError("the element has no properties")
    offset = end + len(b"\nend_header\n")
    return Header(np.dtype(list(columns.items())), int(element[1]), offset)


def _coefficients(dtype: np.dtype) -> int:
    """Counts the SH coefficients a channel; checks that the splat columns are there."""
    names = dtype.names or ()
    rest = sum(name.startswith("f_rest_") for name in names)
    coefficients = rest // 3 + 1
    if rest % 3 or coefficients not in SH_SIZES:
        raise PlyError(f"{rest} f_rest columns; allowed: 0, 9, 24, 45, 72")
    needed = [c for c in _columns(coefficients) if c not in ("nx", "ny", "nz")]
    missing = [c for c in needed if c not in names]
    if missing:
        raise PlyError(f"columns missing: {', '.join(missing[:6])}; are these splats?")
    wrong = [c for c in needed if dtype[c] != np.dtype("<f4")]
    if wrong:
        raise PlyError(f"columns must be float32: {', '.join(wrong[:6])}")
    return coefficients


def read_splats(path: str | os.PathLike) -> Gaussians:
    """Reads splats written by `write_splats` or by another 3DGS program.

    Returns Gaussians of n rows, all alive, float32. Raises PlyError, in one line, for
    anything that is not such a file; nothing is allocated before the sizes agree.
    """
    path = Path(path)
    if not path.is_file():
        raise PlyError(f"{path}: no such file")
    try:
        with open(path, "rb") as stream:
            header = parse_header(stream.read(MAX_HEADER_BYTES))
            coefficients = _coefficients(header.dtype)
            left = path.stat().st_size - header.offset
            expected = header.count * header.dtype.itemsize
            if left != expected:
                raise PlyError(
                    f"{header.count} rows of {header.dtype.itemsize} bytes need "
                    f"{expected} bytes, the file holds {left}"
                )
            if header.count == 0:
                raise PlyError("the file holds no splats")
            stream.seek(header.offset)
            table = np.frombuffer(stream.read(expected), header.dtype)
    except PlyError as error:
        raise PlyError(f"{path}: {error}") from None
    return _gaussians(path, table, coefficients)


def _gaussians(path: Path, table: np.ndarray, coefficients: int) -> Gaussians:
    def stack(names) -> np.ndarray:
        columns = np.stack([table[name] for name in names], axis=1)
        if not np.isfinite(columns).all():
            raise PlyError(f"{path}: values that are not finite in {names[0]}...")
        return columns

    dc = stack(_DC)[:, None]
    if coefficients > 1:
        rest = stack([f"f_rest_{i}" for i in range(3 * (coefficients - 1))])
        rest = rest.reshape(len(rest), 3, coefficients - 1).transpose(0, 2, 1)
        dc = np.concatenate([dc, rest], axis=1)
    return Gaussians(
        means=jnp.asarray(stack(_MEANS)),
        log_scales=jnp.asarray(stack(_SCALES)),
        quats=jnp.asarray(stack(_QUATS)),
        opacity_logits=jnp.asarray(stack(["opacity"])[:, 0]),
        sh=jnp.asarray(dc),
        alive=jnp.ones(len(table), bool),
    )
