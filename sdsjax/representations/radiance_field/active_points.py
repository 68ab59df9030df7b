"""Evaluates a field at some of its points only, under static shapes.

Notation: rays [r], n points each; mask [r n], the points that count; `capacity` slots,
a static number. Points take slots in the order of their place along the ray, all rays'
first points before all rays' second ones: where there are more points than slots, those
farthest from the camera go without, and the caller is told which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    world_to_unit_cube,
)
from sdsjax.representations.radiance_field.occupancy_grid import cells_at

Array = jax.Array


class Slots(NamedTuple):
    """An assignment of points to slots.

    source [capacity]: the point r n + i (flat) that a slot holds, 0 where it holds
    none; used [capacity]: whether it holds one; slot [r n]: a point's slot, 0 where it
    has none; kept [r n]: whether it has one.
    """

    source: Array
    used: Array
    slot: Array
    kept: Array


def assign_slots(mask: Array, capacity: int) -> Slots:
    """Assigns slots to the points of a mask [r n], the nearest to the camera first."""
    rays, count = mask.shape
    columns = mask.T.reshape(-1)
    slot = jnp.cumsum(columns) - 1
    kept = columns & (slot < capacity)
    # by place along the ray: (i, r) is point r n + i
    point = (jnp.arange(rays) * count + jnp.arange(count)[:, None]).reshape(-1)
    source = jnp.zeros(capacity, jnp.int32)
    source = source.at[jnp.where(kept, slot, capacity)].set(
        point.astype(jnp.int32), mode="drop"
    )
    used = jnp.arange(capacity) < jnp.sum(columns)

    def by_ray(a):
        return a.reshape(count, rays).T

    return Slots(source, used, by_ray(jnp.where(kept, slot, 0)), by_ray(kept))


def gather_points(slots: Slots, values: Array) -> Array:
    """Gathers values [capacity ...] of slots from values [r n ...] of points.

    No gradient flows through it.
    """
    flat = jax.lax.stop_gradient(values).reshape(-1, *values.shape[2:])
    return flat[slots.source]


@jax.custom_vjp
def scatter_points(slots: Slots, values: Array) -> Array:
    """Scatters values [capacity ...] of slots to points [r n ...], 0 without a slot."""
    kept = slots.kept.reshape(*slots.kept.shape, *(1,) * (values.ndim - 1))
    return jnp.where(kept, values[slots.slot], 0)


def _scatter_forward(slots, values):
    return scatter_points(slots, values), slots


def _scatter_backward(slots, cotangent):
    # Each slot belongs to one point: the scatter of a gather's gradient is a gather.
    used = slots.used.reshape(-1, *(1,) * (cotangent.ndim - 2))
    return None, jnp.where(used, gather_points(slots, cotangent), 0)


scatter_points.defvjp(_scatter_forward, _scatter_backward)


def occupied_points(
    field: FieldSettings, occupied: Array | None, points: Array
) -> Array | None:
    """Says which points [... 3] lie in cells [r r r] that are occupied (None: all)."""
    if occupied is None:
        return None
    return cells_at(occupied, world_to_unit_cube(field, points))


def evaluate_occupied(
    evaluate: Callable,
    mask: Array | None,
    capacity_share: float,
    points: Array,
    directions: Array | None,
):
    """Evaluates points [r n 3] of a mask [r n] (None: all), seen along directions.

    evaluate: (points [... n 3], directions [... 3]) -> values [... n ...] each;
    capacity_share: the share of all points for which there are slots (1: no slots, all
    points are evaluated). Returns (values [r n ...] each, mask [r n] of the points
    whose values count (None: all), counts [r] by name: "samples" in the mask, and
    "dropped" without a slot).
    """
    if mask is None:
        return evaluate(points, directions), None, {}
    counts = {"samples": jnp.sum(mask, axis=-1)}
    if capacity_share >= 1:
        return evaluate(points, directions), mask, counts
    slots = assign_slots(mask, math.ceil(capacity_share * mask.size))
    if directions is not None:
        directions = jnp.broadcast_to(directions[:, None], points.shape)
        directions = gather_points(slots, directions)
    values = evaluate(gather_points(slots, points)[:, None], directions)
    values = [scatter_points(slots, value[:, 0]) for value in values]
    counts["dropped"] = jnp.sum(mask & ~slots.kept, axis=-1)
    return values, slots.kept, counts
