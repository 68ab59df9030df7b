"""Small vector arithmetic over whole arrays, safe at zero: arrays in, arrays out."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the inner product <a, b> over all elements."""
    return jnp.sum(a * b)


def norm(a: jax.Array) -> jax.Array:
    """Returns the L2 norm over all elements (value only: its gradient at 0 is NaN)."""
    return jnp.sqrt(inner(a, a))


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns numerator / denominator, and 0 where the denominator is 0.

    The gradients are 0 there as well.
    """
    zero = denominator == 0
    return jnp.where(zero, 0.0, numerator / jnp.where(zero, 1.0, denominator))


def tree_inner(a, b) -> jax.Array:
    """Returns <a, b> over every leaf of two pytrees, summed in float32 at least."""

    def one(x, y):
        product = x * y
        return jnp.sum(product, dtype=jnp.promote_types(product.dtype, jnp.float32))

    return sum(jax.tree.leaves(jax.tree.map(one, a, b)), start=jnp.zeros(()))


def tree_norm(tree) -> jax.Array:
    """Returns the L2 norm over every leaf of a pytree."""
    return jnp.sqrt(tree_inner(tree, tree))
