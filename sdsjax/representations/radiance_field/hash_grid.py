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


class _Place(NamedTuple):
    # The lower corner [... 3] (uint32) of points' cells, their blending fractions
    # [... 3] and how fast these change with the point.
    corner: Array
    fraction: Array
    rate: Array


def _place(x: Array, level: Level, smooth: bool) -> _Place:
    scale = jnp.asarray(level.scale, x.dtype)
    position = x * scale + 0.5
    corner = jnp.floor(jax.lax.stop_gradient(position))
    fraction, rate = position - corner, jnp.broadcast_to(scale, x.shape)
    if smooth:
        rate = scale * 6 * fraction * (1 - fraction)
        fraction = fraction * fraction * (3 - 2 * fraction)
    return _Place(corner.astype(jnp.uint32), fraction, rate)


def _indices(place: _Place, level: Level) -> list[Array]:
    # rows [...] of the eight corners
    return [
        corner_index([place.corner[..., i] + corner[i] for i in range(3)], level)
        for corner in CORNERS
    ]


def _weights(place: _Place) -> list[Array]:
    # [...] of the eight corners
    shares = 1 - place.fraction, place.fraction
    along = [[shares[corner[i]][..., i] for i in range(3)] for corner in CORNERS]
    return [x * y * z for x, y, z in along]


def _weight_slopes(place: _Place, axis: int) -> list[Array]:
    # d weight / d x_axis [...] of the eight corners
    shares = 1 - place.fraction, place.fraction
    rate, (i, j) = place.rate[..., axis], [i for i in range(3) if i != axis]
    return [
        (rate if corner[axis] else -rate)
        * shares[corner[i]][..., i]
        * shares[corner[j]][..., j]
        for corner in CORNERS
    ]


def _rows(table: Array, index: Array) -> Array:
    # No index runs over its table: checking would cost a seventh of a gather.
    return table.at[index].get(mode="promise_in_bounds")


def _sum(weights: Sequence[Array], values: Sequence[Array] | Array) -> Array:
    # sum_c w_c v_c [... F] of weights [...] and values [... F]
    total = weights[0][..., None] * values[0]
    for weight, value in zip(weights[1:], values[1:]):
        total += weight[..., None] * value
    return total


def _scatter(level: Level, index: list[Array], updates: list[Array]) -> Array:
    # The table [T F] that has updates [... F] added at rows [...]. One scatter of
    # corners written out one after the other: as one array expression, broadcast over
    # the corners, it takes three times as long on a CPU.
    width = updates[0].shape[-1]
    flat = [update.reshape(-1, width) for update in updates]
    rows = jnp.concatenate([i.reshape(-1) for i in index])
    zeros = jnp.zeros((level.rows, width), updates[0].dtype)
    return zeros.at[rows].add(jnp.concatenate(flat), mode="promise_in_bounds")


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def encode_level(table: Array, x: Array, level: Level, smooth: bool) -> Array:
    """Features [... F] of points x [... 3] in the unit cube, at one level. Reverse mode
    only."""
    place = _place(x, level, smooth)
    rows = [_rows(table, i).astype(x.dtype) for i in _indices(place, level)]
    return _sum(_weights(place), rows)


def _encode_forward(table, x, level, smooth):
    return encode_level(table, x, level, smooth), (table, x)


def _encode_backward(level, smooth, kept, cotangent):
    table, x = kept
    place = _place(x, level, smooth)
    updates = [w[..., None] * cotangent for w in _weights(place)]
    # not computed where nobody asks for it: XLA drops what is not used
    _, slopes = _slopes_of_level(table, x, level, smooth)
    moved = [jnp.sum(slope * cotangent, axis=-1) for slope in slopes]
    table_gradient = _scatter(level, _indices(place, level), updates)
    return table_gradient.astype(table.dtype), jnp.stack(moved, axis=-1)


encode_level.defvjp(_encode_forward, _encode_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def slopes_of_level(
    table: Array, x: Array, level: Level, smooth: bool
) -> tuple[Array, list[Array]]:
    """(features [... F], their derivatives [... F] with respect to x_0, x_1 and x_2) of
    points x [... 3] in the unit cube, at one level; both to be differentiated in
    reverse mode."""
    return _slopes_of_level(table, x, level, smooth)


def _slopes_of_level(table, x, level, smooth):
    place = _place(x, level, smooth)
    # All rows first: they are read once and used four times.
    index = jnp.stack(_indices(place, level))
    rows = _rows(table, index).astype(x.dtype)

    slopes = [_sum(_weight_slopes(place, i), rows) for i in range(3)]
    return _sum(_weights(place), rows), slopes


def _slopes_forward(table, x, level, smooth):
    return slopes_of_level(table, x, level, smooth), (table, x)


def _slopes_backward(level, smooth, kept, cotangents):
    table, x = kept
    place = _place(x, level, smooth)
    weights = [_weights(place), *(_weight_slopes(place, i) for i in range(3))]
    of_value, of_slopes = cotangents
    updates = [_sum(corner, (of_value, *of_slopes)) for corner in zip(*weights)]
    _, pull = jax.vjp(lambda x: _slopes_of_level(table, x, level, smooth), x)
    table_gradient = _scatter(level, _indices(place, level), updates)
    return table_gradient.astype(table.dtype), *pull(cotangents)


slopes_of_level.defvjp(_slopes_forward, _slopes_backward)


def encode(
    tables: Sequence[Array],
    x: Array,
    grid: Grid,
    *,
    level_weights: Array | None = None,
    active: int | None = None,
) -> Array:
    """Features [... L F] of points x [... 3], level by level, x clipped to the unit
    cube. To be differentiated in reverse mode (forwards: `encode_with_slopes`).

    level_weights: [L], a factor a level (`band_weights`); active: how many levels are
    looked up at all, the rest being zeros (static: what it leaves out costs nothing).
    """
    active = len(grid.levels) if active is None else active
    x = jnp.clip(x, 0.0, 1.0)
    parts = [
        encode_level(table, x, level, grid.smooth)
        for table, level in zip(tables[:active], grid.levels)
    ]
    parts = _weighted(parts, level_weights)
    if active < len(grid.levels):
        width = grid.features * (len(grid.levels) - active)
        parts.append(jnp.zeros((*x.shape[:-1], width), x.dtype))
    return jnp.concatenate(parts, axis=-1)


def encode_with_slopes(
    tables: Sequence[Array],
    x: Array,
    grid: Grid,
    *,
    level_weights: Array | None = None,
) -> tuple[Array, Array]:
    """(`encode`, its derivatives [3 ... L F] with respect to the components of x) at
    points x [... 3]: one look-up for both, and one scatter for their gradient.

    The derivatives are those inside a cell, and 0 outside the unit cube.
    """
    inside = ((x >= 0) & (x <= 1)).astype(x.dtype)
    x = jnp.clip(x, 0.0, 1.0)
    found: Any = [
        slopes_of_level(table, x, level, grid.smooth)
        for table, level in zip(tables, grid.levels)
    ]
    values = _weighted([value for value, _ in found], level_weights)
    slopes = [
        jnp.concatenate(_weighted([slope[i] for _, slope in found], level_weights), -1)
        * inside[..., i, None]
        for i in range(3)
    ]
    return jnp.concatenate(values, axis=-1), jnp.stack(slopes)


def _weighted(parts: Sequence[Any], level_weights: Array | None) -> list[Array]:
    # each level's features times its weight
    if level_weights is None:
        return list(parts)
    return [p * w.astype(p.dtype) for p, w in zip(parts, level_weights)]


def band_weights(
    step: Array | int, levels: int, *, first: int, start: int, every: int
) -> Array:
    """Weights [L] of a progressive band after `step` updates: `first` levels count from
    the beginning, then one more each `every` steps from `start` on, fading in."""
    opened = first + jnp.maximum(step - start, 0) / every
    # of a definite type: a weak one would have the training step traced twice
    order = jnp.arange(levels, dtype=jnp.result_type(float))
    return jnp.clip(opened - order, 0.0, 1.0)
