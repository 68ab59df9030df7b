"""The compositor of composite.py as two Pallas kernels: the plug-in kernel="pallas".

The same notation, sums and gradient as there; another layout, meant for a GPU. One
program draws one tile, one splat after the other, its P pixels abreast: rows come
sorted by tile, so that a program reads a run of memory, and in the backward pass it
writes one gradient row an intersection, into slots that nobody else writes. Rows of one
splat are then added up by a segmented scan in a fixed order: no atomics, the same bits
every time. On a CPU the kernels are interpreted, which is slow and only there to be
tested. No GPU has run them yet.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from sdsjax.render.splatting.binning import TileLists
from sdsjax.render.splatting.composite import (
    GEOMETRY,
    MIN_TRANSMITTANCE,
    RasterPlan,
    list_rows,
    tile_centres,
)
from sdsjax.render.splatting.project import MIN_ALPHA

Array = jax.Array


def forward_slab(table: Array, lists: TileLists, carry, plan: RasterPlan):
    """Computes composite.forward_slab by a kernel."""
    listed = list_rows(table, lists, plan)
    tiles, transmittance, sums = (
        _tile_runs(lists, plan, table.dtype),
        *map(_merge, carry),
    )
    kernel = partial(_forward, size=plan.grid.size, max_alpha=plan.max_alpha)
    drawn = pl.pallas_call(
        kernel,
        grid=(len(transmittance),),
        in_specs=[
            *map(_own_block, tiles),
            _whole_array(),
            _own_block(transmittance),
            _own_block(sums),
        ],
        out_specs=[_own_block(transmittance), _own_block(sums)],
        out_shape=[_shape_like(transmittance), _shape_like(sums)],
        interpret=_is_interpreted(),
    )(*tiles, listed.rows, transmittance, sums)
    return jax.tree.map(lambda a, was: a.reshape(was.shape), tuple(drawn), carry)


def backward_slab(
    table: Array, lists: TileLists, carry, cotangent, total_sum, plan: RasterPlan
):
    """Computes composite.backward_slab by a kernel and a segmented sum."""
    views, n = table.shape[:2]
    listed = list_rows(table, lists, plan)
    tiles = _tile_runs(lists, plan, table.dtype)
    transmittance, running_sum, v, end = map(_merge, (*carry[:2], cotangent, total_sum))
    kernel = partial(_backward, size=plan.grid.size, max_alpha=plan.max_alpha)
    state = [transmittance, running_sum]
    *after, v_rows = pl.pallas_call(
        kernel,
        grid=(len(transmittance),),
        in_specs=[
            *map(_own_block, tiles),
            _whole_array(),
            *map(_own_block, (v, end, *state)),
        ],
        out_specs=[*map(_own_block, state), _whole_array()],
        out_shape=[*map(_shape_like, state), _shape_like(listed.rows)],
        interpret=_is_interpreted(),
    )(*tiles, listed.rows, v, end, *state)
    # Slots that no tile lists were never written.
    slot = jnp.arange(lists.ids.shape[1])
    written = (slot < lists.total[:, None]).reshape(-1)
    written = jnp.pad(written, (0, len(v_rows) - len(written)))
    v_rows = jnp.where(written[:, None], v_rows, 0)
    v_table = segment_sum(v_rows, listed.ids, views * n).reshape(table.shape)
    after = (a.reshape(was.shape) for a, was in zip(after, carry))
    return (*after, carry[2] + v_table)


def segment_sum(values: Array, ids: Array, count: int) -> Array:
    """Sums rows of values [m c] by ids [m] in 0..count-1: [count c].

    Each sum is taken in a fixed order and without atomics.
    """
    order = jnp.argsort(ids, stable=True)
    ids, values = ids[order], values[order]
    first = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])

    def add(left, right):
        begins = right[1][..., None]
        return jnp.where(begins, right[0], left[0] + right[0]), left[1] | right[1]

    sums, _ = lax.associative_scan(add, (values, first))
    last = jnp.searchsorted(ids, jnp.arange(count), side="right") - 1
    met = (last >= 0) & (ids[last] == jnp.arange(count))
    return jnp.where(met[:, None], sums[last], 0)


def _forward(
    first, count, centre, rows, through_in, sums_in, through_out, sums_out,
    *, size, max_alpha,
):  # fmt: skip
    channels = range(sums_in.shape[1] - 1)

    def splat(k, state):
        transmittance, *sums = state
        slot = first[0] + k
        alpha, _, _, _ = _alpha(rows, slot, centre, size, max_alpha)
        weight = _weight(alpha, transmittance)
        features = [rows[slot, GEOMETRY + c] for c in channels] + [1.0]
        sums = [total + weight * f for total, f in zip(sums, features)]
        return (transmittance * (1 - alpha), *sums)

    start = (through_in[0], *(sums_in[0, c] for c in (*channels, len(channels))))
    transmittance, *sums = lax.fori_loop(0, count[0], splat, start)
    through_out[0] = transmittance
    for c, total in enumerate(sums):
        sums_out[0, c] = total


def _backward(
    first, count, centre, rows, v, end, through_in, sofar_in,
    through_out, sofar_out, v_rows, *, size, max_alpha,
):  # fmt: skip
    channels = range(v.shape[1] - 1)

    def splat(k, state):
        transmittance, running_sum = state
        slot = first[0] + k
        alpha, free, dx, dy = _alpha(rows, slot, centre, size, max_alpha)
        weight = _weight(alpha, transmittance)
        share = v[0, len(channels)]
        for c in channels:
            share += rows[slot, GEOMETRY + c] * v[0, c]
        term = weight * share
        v_alpha = transmittance * share - (end[0] - running_sum - term) / (1 - alpha)
        v_sigma = jnp.where((weight > 0) & free, -alpha * v_alpha, 0)
        a, b, c = (rows[slot, i] for i in (2, 3, 4))
        along_x, along_y = jnp.sum(v_sigma * dx), jnp.sum(v_sigma * dy)
        v_rows[slot, 0] = -(a * along_x + b * along_y)
        v_rows[slot, 1] = -(c * along_y + b * along_x)
        v_rows[slot, 2] = 0.5 * jnp.sum(v_sigma * dx * dx)
        v_rows[slot, 3] = jnp.sum(v_sigma * dx * dy)
        v_rows[slot, 4] = 0.5 * jnp.sum(v_sigma * dy * dy)
        v_rows[slot, 5] = -jnp.sum(v_sigma)
        for i in channels:
            v_rows[slot, GEOMETRY + i] = jnp.sum(weight * v[0, i])
        return transmittance * (1 - alpha), running_sum + term

    state = lax.fori_loop(0, count[0], splat, (through_in[0], sofar_in[0]))
    through_out[0], sofar_out[0] = state


def _alpha(rows, slot, centre, size: int, max_alpha: float):
    """alpha [P] of one slot, where its gradient flows, and the pixels' distances from
    its mean (dx, dy)."""
    pixel = lax.broadcasted_iota(jnp.int32, (size * size,), 0)
    middle = 0.5 - size / 2
    x, y = ((at.astype(rows.dtype) + middle) for at in (pixel % size, pixel // size))
    dx = x - (rows[slot, 0] - centre[0, 0])
    dy = y - (rows[slot, 1] - centre[0, 1])
    a, b, c, log_opacity = (rows[slot, i] for i in range(2, GEOMETRY))
    raw = jnp.exp(log_opacity - (0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
    alpha = jnp.where(raw >= MIN_ALPHA, jnp.minimum(raw, max_alpha), 0)
    return alpha, alpha < max_alpha, dx, dy


def _weight(alpha, transmittance):
    weight = alpha * transmittance
    return jnp.where(transmittance - weight > MIN_TRANSMITTANCE, weight, 0)


def _tile_runs(lists: TileLists, plan: RasterPlan, dtype) -> tuple[Array, Array, Array]:
    """Begin and length [V T] of the tiles' runs, and centres [V T 2]."""
    views, capacity = lists.ids.shape
    begin = lists.start[:, :-1]
    count = lists.start[:, 1:] - begin
    shift = jnp.arange(views, dtype=jnp.int32)[:, None] * capacity
    centre = jnp.asarray(tile_centres(plan.grid), dtype)
    return (begin + shift).reshape(-1), count.reshape(-1), jnp.tile(centre, (views, 1))


def _merge(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])


def _own_block(array: Array) -> pl.BlockSpec:
    """A program sees its own row of the array."""
    shape = (1, *array.shape[1:])
    return pl.BlockSpec(shape, lambda tile: (tile, *(0 for _ in shape[1:])))


def _whole_array() -> pl.BlockSpec:
    return pl.BlockSpec()


def _shape_like(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _is_interpreted() -> bool:
    return jax.default_backend() == "cpu"
