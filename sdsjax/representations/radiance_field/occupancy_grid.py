"""A grid of cells over a field's cube that remembers where the field is empty.

Notation: values [r r r], of each cell the largest optical depth d that was met at
random points of it, d = sigma times the cell's width (world units), forgotten slowly:

    value <- max(0.95 value, d)     every 16 updates,

in all cells during the first 256 updates, later in a quarter of them at random and as
often in a random occupied one. A cell is occupied where value >= min(mean, 0.01): what
is called empty hides a hundredth of what lies behind it, and a grid without any values
calls nothing empty. Sources: instant-ngp (arXiv 2201.05989) and, for the decay and the
threshold, nerfacc (arXiv 2305.04966). `position` [... 3]: a point of the unit cube.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    activate_density,
    raw_density,
    unit_cube_to_world,
)

Array = jax.Array

EVERY, WARM_UP = 16, 256
DECAY, THRESHOLD = 0.95, 0.01
# Points evaluated together: those of all cells would not fit.
BLOCK = 1 << 15


def occupied_cells(values: Array) -> Array:
    """Says which cells [r r r] are not known to be empty, from their values."""
    return values >= jnp.minimum(jnp.mean(values), THRESHOLD)


def cells_at(cells: Array, position: Array) -> Array:
    """Looks up cells [r r r] at positions [... 3], which are clipped to the cube."""
    side = cells.shape[0]
    i, j, k = (
        jnp.clip((position[..., axis] * side).astype(jnp.int32), 0, side - 1)
        for axis in range(3)
    )
    return cells.reshape(-1)[(i * side + j) * side + k]


def optical_depth(
    field: FieldSettings, params, level_weights, side: int, position: Array
) -> Array:
    """Computes the optical depth d [...] of cells 1 / side wide at positions [... 3].

    A contracted cell is as wide as along the ray from the origin, where it is stretched
    most.
    """
    raw, _ = raw_density(
        field, params, unit_cube_to_world(field, position), level_weights
    )
    width = 2 * field.bound / side
    if field.scene == "contracted":
        length = jnp.sqrt(jnp.sum((4 * position - 2) ** 2, axis=-1))
        width = 2 * width / jnp.clip(2 - length, 1e-3, 1.0) ** 2
    return width * activate_density(field, raw)


def init_occupancy(depth_at: Callable, key: Array, side: int) -> Array:
    """Measures the values [r r r], r = side, of a field as it is.

    depth_at: position [... 3] -> d [...].
    """
    return _update_all(depth_at, key, jnp.zeros((side,) * 3))


def update_occupancy(
    depth_at: Callable, key: Array, step: Array | int, values: Array
) -> Array:
    """Returns the values [r r r] after update `step`, counted from 0.

    depth_at: position [... 3] -> d [...].
    """
    kind = jnp.where(jnp.asarray(step) < WARM_UP, 1, 2)
    rules = (lambda key, values: values, partial(_update_all, depth_at))
    return jax.lax.switch(
        jnp.where(jnp.asarray(step) % EVERY == 0, kind, 0),
        (*rules, partial(_update_some, depth_at)),
        key,
        values,
    )


def _sampled_depth(depth_at: Callable, key: Array, cells: Array, side: int) -> Array:
    # d [m] at a random point of each of cells [m]
    corner = jnp.stack(jnp.unravel_index(cells, (side,) * 3), axis=-1)
    position = (corner + jax.random.uniform(key, corner.shape)) / side
    return jax.lax.map(depth_at, position, batch_size=BLOCK)


def _update_all(depth_at: Callable, key: Array, values: Array) -> Array:
    depth = _sampled_depth(depth_at, key, jnp.arange(values.size), values.shape[0])
    return jnp.maximum(DECAY * values, depth.reshape(values.shape))


def _update_some(depth_at: Callable, key: Array, values: Array) -> Array:
    key_any, key_occupied, key_point = jax.random.split(key, 3)
    count = max(values.size // 4, 1)
    any_cells = jax.random.randint(key_any, (count,), 0, values.size)
    order = jnp.cumsum(occupied_cells(values).reshape(-1))
    rank = jax.random.randint(key_occupied, (count,), 1, order[-1] + 1)
    cells = jnp.concatenate([any_cells, jnp.searchsorted(order, rank)])
    depth = _sampled_depth(depth_at, key_point, cells, values.shape[0])
    flat = values.reshape(-1)
    flat = flat.at[cells].set(DECAY * flat[cells])
    return flat.at[cells].max(depth).reshape(values.shape)
