"""The renderer linearised: what carries a direction in z back to theta and forth.

theta is any pytree; only its floating leaves move (a flag such as `alive` travels
along). `forward(theta) -> ((z [n ...], x [n ...] or None, penalty []), aux)`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdsjax.math import tree_norm
from sdsjax.types import Array, Linear, PyTree


def floating(params: PyTree) -> PyTree:
    """Puts None in place of every leaf of `params` that is not floating."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, params
    )


def merge(new: PyTree, params: PyTree) -> PyTree:
    """Takes the leaves of `new`, and those of `params` where `new` has None."""
    return jax.tree.map(
        lambda leaf, old: old if leaf is None else leaf,
        new,
        params,
        is_leaf=lambda leaf: leaf is None,
    )


def all_finite(*trees: PyTree) -> Array:
    """Tells whether no floating leaf holds a NaN or an infinity."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(floating(trees))]
    return jnp.all(jnp.stack(leaves))


def central_difference(function: Callable, theta: PyTree, tangent: PyTree) -> Array:
    """Estimates d/dh function(theta + h tangent) at 0 from two evaluations.

    The step is the cube root of float32's epsilon on the scale of theta, which
    balances truncation against rounding.
    """
    size = jnp.maximum(tree_norm(tangent), 1e-20)
    h = 5e-3 * jnp.maximum(tree_norm(theta), 1e-3) / size
    above, below = (
        function(jax.tree.map(lambda p, d, s=sign: p + s * h * d, theta, tangent))
        for sign in (0.5, -0.5)
    )
    return (above - below) / h


def linear_maps(forward: Callable, theta: PyTree, pull: Callable, zeros) -> Linear:
    """Makes Linear(pullback, pushforward) of the whole batch: g_z [n ...] <-> d_theta.

    `pull` is the vjp of forward, `zeros` its cotangents beside g_z. The pushforward is
    a difference of two renders: renderers with a custom VJP have no forward mode.
    """

    def pullback(g_z):
        return pull((g_z, *zeros))[0]

    def pushforward(d_theta):
        tangent = jax.tree.map(lambda leaf, d: d.astype(leaf.dtype), theta, d_theta)
        return central_difference(lambda moved: forward(moved)[0][0], theta, tangent)

    return Linear(pullback, pushforward)
