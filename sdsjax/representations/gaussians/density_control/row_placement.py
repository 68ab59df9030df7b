"""Free rows of tables of fixed height, and the copies that are placed in them.

Notation: n rows; alive [n] bool, a row that is not alive is free; source [n] int32: row
i takes what row source[i] held (i itself where nothing moves).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.types import PyTree

Array = jax.Array


class Placement(NamedTuple):
    """Where copies are placed.

    source [n]; granted [n]: rows whose copy found a free row; placed [n]: the rows that
    took a copy; short []: copies that found none.
    """

    source: Array
    granted: Array
    placed: Array
    short: Array


def place_copies(alive: Array, wanted: Array, score: Array) -> Placement:
    """Places each wanted [n] copy in a free row.

    Where rows are short, the highest score [n] goes first. Ranks come of sorting and
    cumulative sums: shapes do not change.
    """
    n = alive.shape[0]
    rows = jnp.arange(n, dtype=jnp.int32)
    order = jnp.argsort(-jnp.where(wanted, score, -jnp.inf), stable=True)
    order = order.astype(jnp.int32)
    rank = jnp.zeros(n, jnp.int32).at[order].set(rows, unique_indices=True)
    asked = jnp.sum(wanted, dtype=jnp.int32)
    free = ~alive
    free_rank = jnp.cumsum(free, dtype=jnp.int32) - 1
    given = jnp.minimum(asked, jnp.sum(free, dtype=jnp.int32))
    placed = free & (free_rank < given)
    source = jnp.where(placed, order[jnp.clip(free_rank, 0, n - 1)], rows)
    return Placement(source, wanted & (rank < given), placed, asked - given)


def first_free(alive: Array, count: Array) -> Array:
    """Returns a mask [n] of the first `count` rows that are not alive."""
    return ~alive & (jnp.cumsum(~alive, dtype=count.dtype) <= count)


def draw_rows(key: Array, weight: Array) -> Array:
    """Draws n rows [n], with probability proportional to weight [n] >= 0.

    At least one weight is positive.
    """
    ends = jnp.cumsum(weight)
    # below the last end, or rounding could draw a row behind the last positive one
    at = jax.random.uniform(key, weight.shape, weight.dtype) * ends[-1] * (1 - 1e-6)
    drawn = jnp.searchsorted(ends, at, side="right").astype(jnp.int32)
    return jnp.minimum(drawn, weight.shape[0] - 1)


def gather_rows(params: PyTree, source: Array) -> PyTree:
    """Returns every leaf [n ...] with its rows taken from source [n]."""
    return jax.tree.map(lambda leaf: leaf[source], params)
