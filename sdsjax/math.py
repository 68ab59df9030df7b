"""Small vector arithmetic over whole arrays, safe at zero. Arrays in, arrays out."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """<a, b> over all elements."""
    return jnp.sum(a * b)


def norm(a: jax.Array) -> jax.Array:
    """The L2 norm over all elements (value only: its gradient at 0 is NaN)."""
    return jnp.sqrt(inner(a, a))


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator, and 0 where the denominator is 0; so are gradients."""
    zero = denominator == 0
    return jnp.where(zero, 0.0, numerator / jnp.where(zero, 1.0, denominator))


def tree_norm(tree) -> jax.Array:
    """The L2 norm over every leaf of a pytree."""
    squares = [inner(leaf, leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros(())))
