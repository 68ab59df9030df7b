"""One level of a hash grid: its table is looked up and blended, with gradients.

Notation: x [... 3] in the unit cube; a level has scale s, position p = x s + 0.5,
resolution r and a table [T F] of features. The eight corners c of p's cell are looked
up and blended trilinearly, or with weights 3 f^2 - 2 f^3 (`smooth`) of the fraction f
of p. The row of a corner, modulo the table's size T, is

    dense   c_x + c_y r + c_z r^2
    hashed  c_x xor (c_y 2654435761) xor (c_z 805459861)    in uint32.

Source: instant-ngp (arXiv 2201.05989), eqs. 2-4 and appendix A; the half-cell offset is
tiny-cuda-nn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

PRIMES = (1, 2654435761, 805459861)
CORNERS = np.array(list(np.ndindex(2, 2, 2)), np.uint32)  # [8 3]


class GridLevel(NamedTuple):
    """The static shape of one level of a hash grid.

    scale: s_l; resolution: r_l, nodes a side; rows: T_l of its table; hashed: or dense.
    """

    scale: float
    resolution: int
    rows: int
    hashed: bool


def corner_row(corner: Sequence[Array], level: GridLevel) -> Array:
    """Returns the rows of a level's table for corners (c_x, c_y, c_z).

    The corners are uint32 arrays of one shape, which the rows (int32) have as well.
    """
    if level.hashed:
        x, y, z = (c * np.uint32(p) for c, p in zip(corner, PRIMES))
        index = x ^ y ^ z
    else:
        x, y, z = corner
        r = np.uint32(level.resolution)
        index = x + r * (y + r * z)
    return (index % np.uint32(level.rows)).astype(jnp.int32)


class _Cell(NamedTuple):
    # The lower corner [... 3] (uint32) of points' cells, their blending fractions
    # [... 3] and how fast these change with the point.
    corner: Array
    fraction: Array
    rate: Array


def _locate(x: Array, level: GridLevel, smooth: bool) -> _Cell:
    scale = jnp.asarray(level.scale, x.dtype)
    position = x * scale + 0.5
    corner = jnp.floor(jax.lax.stop_gradient(position))
    fraction, rate = position - corner, jnp.broadcast_to(scale, x.shape)
    if smooth:
        rate = scale * 6 * fraction * (1 - fraction)
        fraction = fraction * fraction * (3 - 2 * fraction)
    return _Cell(corner.astype(jnp.uint32), fraction, rate)


def _corner_rows(cell: _Cell, level: GridLevel) -> list[Array]:
    # rows [...] of the eight corners
    return [
        corner_row([cell.corner[..., i] + corner[i] for i in range(3)], level)
        for corner in CORNERS
    ]


def _corner_weights(cell: _Cell) -> list[Array]:
    # [...] of the eight corners
    factors = 1 - cell.fraction, cell.fraction
    along = [[factors[corner[i]][..., i] for i in range(3)] for corner in CORNERS]
    return [x * y * z for x, y, z in along]


def _corner_weight_slopes(cell: _Cell, axis: int) -> list[Array]:
    # d weight / d x_axis [...] of the eight corners
    factors = 1 - cell.fraction, cell.fraction
    rate, (i, j) = cell.rate[..., axis], [i for i in range(3) if i != axis]
    return [
        (rate if corner[axis] else -rate)
        * factors[corner[i]][..., i]
        * factors[corner[j]][..., j]
        for corner in CORNERS
    ]


def _take_rows(table: Array, index: Array) -> Array:
    # No index runs over its table: checking would cost a seventh of a gather.
    return table.at[index].get(mode="promise_in_bounds")


def _weighted_sum(weights: Sequence[Array], values: Sequence[Array] | Array) -> Array:
    # sum_c w_c v_c [... F] of weights [...] and values [... F]
    total = weights[0][..., None] * values[0]
    for weight, value in zip(weights[1:], values[1:]):
        total += weight[..., None] * value
    return total


def _scatter_add(level: GridLevel, index: list[Array], updates: list[Array]) -> Array:
    # The table [T F] that has updates [... F] added at rows [...]. One scatter of
    # corners written out one after the other: as one array expression, broadcast over
    # the corners, it takes three times as long on a CPU.
    width = updates[0].shape[-1]
    flat = [update.reshape(-1, width) for update in updates]
    rows = jnp.concatenate([i.reshape(-1) for i in index])
    zeros = jnp.zeros((level.rows, width), updates[0].dtype)
    return zeros.at[rows].add(jnp.concatenate(flat), mode="promise_in_bounds")


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def encode_level(table: Array, x: Array, level: GridLevel, smooth: bool) -> Array:
    """Returns one level's features [... F] of points x [... 3] in the unit cube.

    It can be differentiated in reverse mode only.
    """
    cell = _locate(x, level, smooth)
    rows = [_take_rows(table, i).astype(x.dtype) for i in _corner_rows(cell, level)]
    return _weighted_sum(_corner_weights(cell), rows)


def _encode_forward(table, x, level, smooth):
    return encode_level(table, x, level, smooth), (table, x)


def _encode_backward(level, smooth, residuals, cotangent):
    table, x = residuals
    cell = _locate(x, level, smooth)
    updates = [w[..., None] * cotangent for w in _corner_weights(cell)]
    # not computed where nobody asks for it: XLA drops what is not used
    _, slopes = _value_and_jacobian(table, x, level, smooth)
    x_gradient = [jnp.sum(slope * cotangent, axis=-1) for slope in slopes]
    table_gradient = _scatter_add(level, _corner_rows(cell, level), updates)
    return table_gradient.astype(table.dtype), jnp.stack(x_gradient, axis=-1)


encode_level.defvjp(_encode_forward, _encode_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def encode_level_with_jacobian(
    table: Array, x: Array, level: GridLevel, smooth: bool
) -> tuple[Array, list[Array]]:
    """Returns one level's features [... F] and their derivatives by x_0, x_1 and x_2.

    points x [... 3] in the unit cube; derivatives: three arrays [... F]. All of it can
    be differentiated in reverse mode.
    """
    return _value_and_jacobian(table, x, level, smooth)


def _value_and_jacobian(table, x, level, smooth):
    cell = _locate(x, level, smooth)
    # All rows first: they are read once and used four times.
    index = jnp.stack(_corner_rows(cell, level))
    rows = _take_rows(table, index).astype(x.dtype)

    slopes = [_weighted_sum(_corner_weight_slopes(cell, i), rows) for i in range(3)]
    return _weighted_sum(_corner_weights(cell), rows), slopes


def _jacobian_forward(table, x, level, smooth):
    return encode_level_with_jacobian(table, x, level, smooth), (table, x)


def _jacobian_backward(level, smooth, residuals, cotangents):
    table, x = residuals
    cell = _locate(x, level, smooth)
    weights = [
        _corner_weights(cell),
        *(_corner_weight_slopes(cell, i) for i in range(3)),
    ]
    value_cotangent, jacobian_cotangent = cotangents
    updates = [
        _weighted_sum(corner, (value_cotangent, *jacobian_cotangent))
        for corner in zip(*weights)
    ]
    _, pullback = jax.vjp(lambda x: _value_and_jacobian(table, x, level, smooth), x)
    table_gradient = _scatter_add(level, _corner_rows(cell, level), updates)
    return table_gradient.astype(table.dtype), *pullback(cotangents)


encode_level_with_jacobian.defvjp(_jacobian_forward, _jacobian_backward)
