"""Gaussian splats as PLY, in the layout of the 3D Gaussian Splatting code.

One `vertex` element, binary little-endian float32 (Kerbl et al., arXiv 2308.04079):

    x y z            means, world units (ours: right-handed, y up, front along +z)
    nx ny nz         zeros, there for old readers
    f_dc_0..2        SH coefficient of degree 0, one a channel
    f_rest_*         the other k - 1 coefficients, channel-major: all red, green, blue
    opacity          logit
    scale_0..2       natural logarithm of the standard deviations, world units
    rot_0..3         quaternion w x y z, not necessarily normalised

Only alive rows are written. What is read may be any dialect of PLY
(files/ply_tables.py), with the columns in any order.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from sdsjax.files.atomic import replacing
from sdsjax.files.ply_tables import PlyError, Table, read_vertices
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
        return _gaussians(table.columns, _coefficients(table))
    except PlyError as error:
        raise PlyError(f"{path}: {error}") from None


def _gaussians(table: dict[str, np.ndarray], coefficients: int) -> Gaussians:
    def stack(names) -> np.ndarray:
        with np.errstate(over="ignore"):  # a double that is too large is not finite
            columns = np.stack([table[name].astype("f4") for name in names], axis=1)
        if not np.isfinite(columns).all():
            raise PlyError(f"values that are not finite in {names[0]}...")
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
        alive=jnp.ones(len(dc), bool),
    )
