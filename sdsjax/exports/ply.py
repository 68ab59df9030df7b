"""Gaussian splats as PLY, in the layout of the 3D Gaussian Splatting code.

One `vertex` element, binary little-endian float32 (Kerbl et al., arXiv 2308.04079):

    x y z            means, world units (ours: right-handed, y up, front along +z)
    nx ny nz         zeros, there for old readers
    f_dc_0..2        SH coefficient of degree 0, one a channel
    f_rest_*         the other k - 1 coefficients, channel-major: all red, green, blue
    opacity          logit
    scale_0..2       natural logarithm of the standard deviations, world units
    rot_0..3         quaternion w x y z, not necessarily normalised

Scenes of that code have y down, because COLMAP's cameras have, and what shows such a
file (SuperSplat, antimatter15's, Blender's and Unity's importers) turns it upright or
looks at it so. The file is therefore our object turned half a turn about x: means,
quaternions, the signs of the harmonics. A comment in the header says so, and turns it
back when we read it; a file without the comment is read as it is.

Only alive rows are written. What is read may be any dialect of PLY
(files/ply_tables.py), with the columns in any order.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from sdsjax.files.atomic import replacing
from sdsjax.files.ply_tables import TURNED, PlyError, Table, read_vertices
from sdsjax.representations.gaussians import Gaussians

# Coefficients a channel -> the SH degrees 0 to 4.
SH_SIZES = (1, 4, 9, 16, 25)
_MEANS = ("x", "y", "z")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")


def _columns(coefficients: int) -> list[str]:
    rest = [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    normals = ["nx", "ny", "nz"]
    return [*_MEANS, *normals, *_DC, *rest, "opacity", *_SCALES, *_QUATS]


def harmonic_signs(coefficients: int) -> np.ndarray:
    """Returns the signs [k] by which half a turn about x changes SH coefficients.

    In the order (l, m) = (0, 0), (1, -1), ...: the turn takes y and z to -y and -z; a
    real harmonic is odd in y where m < 0, and odd in z where l + m is odd.
    """
    degrees = range(math.isqrt(coefficients))
    odd = [(m < 0) + (n + m) % 2 for n in degrees for m in range(-n, n + 1)]
    return np.where(np.array(odd) % 2, -1.0, 1.0).astype("<f4")


def turned(
    means: np.ndarray, quats: np.ndarray, sh: np.ndarray, *, back: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns splats half a turn about x, exactly; `back` undoes it to the bit.

    means [n 3], quats [n 4] wxyz, sh [n k 3]: see `harmonic_signs`.
    """
    w, x, y, z = quats.T
    # the quaternion (0, 1, 0, 0), or back (0, -1, 0, 0), times each
    quats = np.stack([x, -w, z, -y] if back else [-x, w, -z, y], axis=1)
    signs = harmonic_signs(sh.shape[1])
    return means * np.array([1, -1, -1], "<f4"), quats, sh * signs[:, None]


def living_rows(gaussians: Gaussians, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the fields of the alive rows as float32, checked before they are written.

    Raises PlyError when nothing is alive or a value is not finite.
    """
    fields = {name: np.asarray(leaf) for name, leaf in gaussians._asdict().items()}
    alive = fields.pop("alive").astype(bool)
    if not alive.any():
        raise PlyError(f"{path}: no splat is alive, there is nothing to write")
    rows = {name: field[alive].astype("<f4") for name, field in fields.items()}
    if rows["sh"].shape[1] not in SH_SIZES:
        raise PlyError(
            f"{path}: {rows['sh'].shape[1]} SH coefficients; allowed: {SH_SIZES}"
        )
    count = int(alive.sum())
    finite = [np.isfinite(row).reshape(count, -1).all(axis=1) for row in rows.values()]
    bad = int((~np.all(finite, axis=0)).sum())
    if bad:
        raise PlyError(f"{path}: {bad} splats hold values that are not finite")
    return rows


def write_splats(path: str | os.PathLike, gaussians: Gaussians) -> Path:
    """Writes the alive rows of `gaussians`, in one step. Returns the path.

    Raises PlyError when nothing is alive or a value is not finite.
    """
    rows = living_rows(gaussians, path)
    means, quats, sh = turned(rows["means"], rows["quats"], rows["sh"])
    table = np.concatenate(
        [
            means,
            np.zeros_like(means),
            sh[:, 0],
            sh[:, 1:].transpose(0, 2, 1).reshape(len(means), -1),
            rows["opacity_logits"].reshape(-1, 1),
            rows["log_scales"],
            quats,
        ],
        axis=1,
    )
    lines = ["ply", "format binary_little_endian 1.0", f"comment {TURNED}"]
    lines.append(f"element vertex {len(means)}")
    lines += [f"property float {name}" for name in _columns(sh.shape[1])]
    header = "\n".join([*lines, "end_header"]) + "\n"
    with replacing(path) as partial, open(partial, "wb") as stream:
        stream.write(header.encode("ascii"))
        stream.write(table.astype("<f4").tobytes())
    return Path(path)


def _coefficients(table: Table) -> int:
    """Counts the SH coefficients a channel; checks that the splat columns are there."""
    names = table.columns
    rest = sum(name.startswith("f_rest_") for name in names)
    coefficients = rest // 3 + 1
    if rest % 3 or coefficients not in SH_SIZES:
        raise PlyError(f"{rest} f_rest columns; allowed: 0, 9, 24, 45, 72")
    needed = [c for c in _columns(coefficients) if c not in ("nx", "ny", "nz")]
    missing = [c for c in needed if c not in names]
    if missing:
        raise PlyError(f"columns missing: {', '.join(missing[:6])}; are these splats?")
    wrong = [c for c in needed if names[c].dtype.kind != "f"]
    if wrong:
        raise PlyError(f"columns must be float32 or double: {', '.join(wrong[:6])}")
    return coefficients


def read_splats(path: str | os.PathLike) -> Gaussians:
    """Reads splats written by `write_splats` or by another 3DGS program.

    Any dialect that `files.ply_tables` reads. Returns Gaussians of n rows, all alive,
    float32. Raises PlyError, in one line, for anything that is not such a file; nothing
    is allocated before the sizes agree.
    """
    table = read_vertices(path)
    try:
        return _gaussians(table, _coefficients(table))
    except PlyError as error:
        raise PlyError(f"{path}: {error}") from None


def _gaussians(table: Table, coefficients: int) -> Gaussians:
    def stack(names) -> np.ndarray:
        with np.errstate(over="ignore"):  # a double that is too large is not finite
            columns = np.stack(
                [table.columns[name].astype("f4") for name in names], axis=1
            )
        if not np.isfinite(columns).all():
            raise PlyError(f"values that are not finite in {names[0]}...")
        return columns

    dc = stack(_DC)[:, None]
    if coefficients > 1:
        rest = stack([f"f_rest_{i}" for i in range(3 * (coefficients - 1))])
        rest = rest.reshape(len(rest), 3, coefficients - 1).transpose(0, 2, 1)
        dc = np.concatenate([dc, rest], axis=1)
    means, quats = stack(_MEANS), stack(_QUATS)
    if TURNED in table.comments:
        means, quats, dc = turned(means, quats, dc, back=True)
    return Gaussians(
        means=jnp.asarray(means),
        log_scales=jnp.asarray(stack(_SCALES)),
        quats=jnp.asarray(quats),
        opacity_logits=jnp.asarray(stack(["opacity"])[:, 0]),
        sh=jnp.asarray(dc),
        alive=jnp.ones(len(dc), bool),
    )
