"""Multi-resolution hash encoding of points, with tiny-cuda-nn's conventions.

Notation: x [... 3] in the unit cube; level l = 0 .. L - 1 has scale s_l = N b^l - 1 (N:
`base`, b: `growth`), position p = x s_l + 0.5, resolution r_l = ceil(s_l) + 1 and a
table [T_l F] of features. The eight corners c of p's cell are looked up and blended
trilinearly, or with weights 3 f^2 - 2 f^3 (`smooth`) of the fraction f of p. Index:

    dense   c_x + c_y r + c_z r^2                        where r^3 <= T = 2^`log2_size`
    hashed  c_x xor (c_y 2654435761) xor (c_z 805459861)    in uint32, otherwise

modulo the size T_l: min(T, r^3 rounded up to a multiple of 8). Source: instant-ngp
(arXiv 2201.05989), eqs. 2-4 and appendix A; the half-cell offset is tiny-cuda-nn's.
Progressive band (Neuralangelo, arXiv 2306.03092; TP-SDS's and SSD's grids): a weight in
[0, 1] a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

PRIMES = (1, 2654435761, 805459861)
# Uniform in +- this, instant-ngp's sec. 4.
INIT_SPAN = 1e-4
CORNERS = np.array(list(np.ndindex(2, 2, 2)), np.uint32)  # [8 3]


class Level(NamedTuple):
    """One level: scale s_l, resolution r_l, rows T_l of its table, hashed or dense."""

    scale: float
    resolution: int
    rows: int
    hashed: bool


class Grid(NamedTuple):
    """The static shape of an encoding: its levels, F features each, and whether cells
    are blended smoothly."""

    levels: tuple[Level, ...]
    features: int
    smooth: bool

    @property
    def width(self) -> int:
        """L F, the length of an encoding."""
        return len(self.levels) * self.features


def make_grid(
    *,
    levels: int = 8,
    features: int = 2,
    log2_size: int = 14,
    base: int = 4,
    growth: float = 1.5,
    smooth: bool = False,
) -> Grid:
    """The grid of `levels` levels, the coarsest of `base` cells a side, each `growth`
    times finer than the one before it.

    Raises ValueError where a number makes no grid.
    """
    for name, value, low, high in (
        ("levels", levels, 1, 32),
        ("features", features, 1, 16),
        ("log2_size", log2_size, 3, 26),
        ("base", base, 2, 4096),
        ("growth", growth, 1.0, 8.0),
    ):
        if not low <= value <= high:
            raise ValueError(f"hash grid: {name} = {value} must be in {low}..{high}")
    finest = base * growth ** (levels - 1)
    # corners times primes wrap as they should, but a float32 position has 24 bits
    if finest > 2**20:
        raise ValueError(
            f"hash grid: the finest level has {finest:.3g} cells a side, more than "
            f"{2**20}: lower levels or growth"
        )
    rows = 2**log2_size
    return Grid(
        tuple(_level(base * growth**level - 1, rows) for level in range(levels)),
        features,
        smooth,
    )


def _level(scale: float, most: int) -> Level:
    # 1e-6: base * growth^l that is whole but for rounding gets no cell more
    resolution = math.ceil(scale - 1e-6) + 1
    hashed = resolution**3 > most
    rows = most if hashed else min(most, 8 * math.ceil(resolution**3 / 8))
    return Level(scale, resolution, rows, hashed)


def init_tables(key: Array, grid: Grid) -> tuple[Array, ...]:
    """Tables [T_l F] of all levels, uniform in +-1e-4, float32."""
    keys = jax.random.split(key, len(grid.levels))
    return tuple(
        jax.random.uniform(
            key,
            (level.rows, grid.features),
            jnp.float32,
            minval=-INIT_SPAN,
            maxval=INIT_SPAN,
        )
        for key, level in zip(keys, grid.levels)
    )


def corner_index(corner: Sequence[Array], level: Level) -> Array:
    """Rows of a level's table for corners (c_x, c_y, c_z), uint32 each, same shape."""
    if level.hashed:
        x, y, z = (c * np.uint32(p) for c, p in zip(corner, PRIMES))
        index = x ^ y ^ z
    else:
        x, y, z = corner
        r = np.uint32(level.resolution)
        index = x + r * (y + r * z)
    return (index % np.uint32(level.rows)).astype(jnp.int32)


def _cell(x: Array, level: Level, smooth: bool) -> tuple[Array, Array]:
    # the lower corner (uint32) of a point's cell, and its blending fractions
    position = x * jnp.asarray(level.scale, x.dtype) + 0.5
    cell = jnp.floor(jax.lax.stop_gradient(position))
    fraction = position - cell
    if smooth:
        fraction = fraction * fraction * (3 - 2 * fraction)
    return cell.astype(jnp.uint32), fraction


def encode_level(table: Array, x: Array, level: Level, smooth: bool) -> Array:
    """Features [... F] of points x [... 3] in the unit cube, at one level."""
    cell, fraction = _cell(x, level, smooth)
    shares = (1 - fraction, fraction)
    total = jnp.zeros((*x.shape[:-1], table.shape[-1]), x.dtype)
    for corner in CORNERS:
        index = corner_index([cell[..., i] + corner[i] for i in range(3)], level)
        along = [shares[corner[i]][..., i] for i in range(3)]
        weight = along[0] * along[1] * along[2]
        total += weight[..., None] * table[index].astype(x.dtype)
    return total


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def encode_fixed(table: Array, x: Array, level: Level, smooth: bool) -> Array:
    """`encode_level` for reverse mode and points that stay where they are: the table's
    gradient is one scatter of all corners instead of eight."""
    return encode_level(table, x, level, smooth)


def _fixed_forward(table, x, level, smooth):
    return encode_level(table, x, level, smooth), x


def _fixed_backward(level, smooth, x, cotangent):
    cell, fraction = _cell(x, level, smooth)
    corners = CORNERS.T.reshape(3, 8, *(1,) * (x.ndim - 1))
    index = corner_index([cell[..., i] + corners[i] for i in range(3)], level)
    shares = [
        jnp.where(corners[i] == 1, fraction[..., i], 1 - fraction[..., i])
        for i in range(3)
    ]
    weight = shares[0] * shares[1] * shares[2]
    width = cotangent.shape[-1]
    updates = (weight[..., None] * cotangent).reshape(-1, width)
    zeros = jnp.zeros((level.rows, width), cotangent.dtype)
    return zeros.at[index.reshape(-1)].add(updates), jnp.zeros_like(x)


encode_fixed.defvjp(_fixed_forward, _fixed_backward)


def encode(
    tables: Sequence[Array],
    x: Array,
    grid: Grid,
    *,
    level_weights: Array | None = None,
    active: int | None = None,
    move_points: bool = True,
) -> Array:
    """Features [... L F] of points x [... 3], level by level, x clipped to the unit
    cube.

    level_weights: [L], a factor a level (`band_weights`); active: how many levels are
    looked up at all, the rest being zeros (static: what it leaves out costs nothing);
    move_points: whether gradients with respect to x may be asked for; without them the
    tables' is cheaper (`encode_fixed`).
    """
    look_up: Any = encode_level if move_points else encode_fixed
    active = len(grid.levels) if active is None else active
    x = jnp.clip(x, 0.0, 1.0)
    parts = []
    for index, (table, level) in enumerate(zip(tables, grid.levels)):
        if index >= active:
            shape = (*x.shape[:-1], grid.features * (len(grid.levels) - active))
            parts.append(jnp.zeros(shape, x.dtype))
            break
        part = look_up(table, x, level, grid.smooth)
        if level_weights is not None:
            part = part * level_weights[index].astype(x.dtype)
        parts.append(part)
    return jnp.concatenate(parts, axis=-1)


def band_weights(
    step: Array | int, levels: int, *, first: int, start: int, every: int
) -> Array:
    """Weights [L] of a progressive band after `step` updates: `first` levels count from
    the beginning, then one more each `every` steps from `start` on, fading in."""
    opened = first + jnp.maximum(step - start, 0) / every
    # of a definite type: a weak one would have the training step traced twice
    order = jnp.arange(levels, dtype=jnp.result_type(float))
    return jnp.clip(opened - order, 0.0, 1.0)
