"""Work on some of a ray's points only, under static shapes.

Notation: rays [r], n points each; mask [r n], the points that count; `room` slots, a
static number. Points take slots in the order of their place along the ray, all rays'
first ones before all rays' second ones: where there are more points than slots, those
farthest from the camera go without, and the caller is told which.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Slots(NamedTuple):
    """source [room]: the point r n + i (flat) that a slot holds, 0 where it holds none;
    used [room]; slot [r n]: a point's slot, 0 where it has none; kept [r n]: whether it
    has one."""

    source: Array
    used: Array
    slot: Array
    kept: Array


def take_slots(mask: Array, room: int) -> Slots:
    """Slots for the points of a mask [r n]."""
    rays, count = mask.shape
    columns = mask.T.reshape(-1)
    slot = jnp.cumsum(columns) - 1
    kept = columns & (slot < room)
    # by place along the ray: (i, r) is point r n + i
    place = (jnp.arange(rays) * count + jnp.arange(count)[:, None]).reshape(-1)
    source = jnp.zeros(room, jnp.int32)
    source = source.at[jnp.where(kept, slot, room)].set(
        place.astype(jnp.int32), mode="drop"
    )
    used = jnp.arange(room) < jnp.sum(columns)

    def rows(a):
        return a.reshape(count, rays).T

    return Slots(source, used, rows(jnp.where(kept, slot, 0)), rows(kept))


def gather(slots: Slots, values: Array) -> Array:
    """The values [room ...] of slots, of points' values [r n ...], without gradient."""
    flat = jax.lax.stop_gradient(values).reshape(-1, *values.shape[2:])
    return flat[slots.source]


@jax.custom_vjp
def put_back(slots: Slots, values: Array) -> Array:
    """Points' values [r n ...], 0 for one without a slot, of slots' [room ...]."""
    kept = slots.kept.reshape(*slots.kept.shape, *(1,) * (values.ndim - 1))
    return jnp.where(kept, values[slots.slot], 0)


def _put_forward(slots, values):
    return put_back(slots, values), slots


def _put_backward(slots, cotangent):
    # Each slot belongs to one point: the scatter of a gather's gradient is a gather.
    used = slots.used.reshape(-1, *(1,) * (cotangent.ndim - 2))
    return None, jnp.where(used, gather(slots, cotangent), 0)


put_back.defvjp(_put_forward, _put_backward)
