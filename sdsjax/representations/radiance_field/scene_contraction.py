"""Mip-NeRF 360's contraction of all of space into a ball, and its inverse.

Notation: y [... 3] points in units of the scene's bound (arXiv 2111.12077, eq. 10):

    C(y) = y where |y| <= 1, else (2 - 1 / |y|) y / |y|,

which maps space into the ball of radius 2 and leaves the unit ball as it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def contract(y: Array) -> Array:
    """Contracts points y [... 3] to C(y) [... 3], in the ball of radius 2."""
    length = jnp.sqrt(jnp.maximum(jnp.sum(y**2, axis=-1, keepdims=True), 1.0))
    return (2 - 1 / length) / length * y


def uncontract(c: Array, *, max_distance: float = 1e3) -> Array:
    """Returns the points y [... 3] whose contraction is c [... 3].

    max_distance: bound on |y|, also for c on the border of the ball or beyond it.
    """
    length = jnp.sqrt(jnp.maximum(jnp.sum(c**2, axis=-1, keepdims=True), 1.0))
    return c / (length * jnp.maximum(2 - length, 1 / max_distance))
