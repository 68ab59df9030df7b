"""Fits Stein's mu, which minimises the second moment of the gradient.

a = w e_s and c = w cv, [n ...] over a step's n views; mu is one number, one per channel
[1 .. c] or z's shape. E[c] = 0, so the second moment's minimum is the variance's.
- in z: mu* = -E[a c] / E[c c], each expectation a running sum over steps that forgets
  at `decay`; an element's own sums are drawn towards the pooled ratio by ten
  observations, since a ratio of few samples has heavy tails.
- through the renderer (eq. 11), J^T the pullback to theta: one number and channels have
  normal equations, <J^T c_i, J^T c_j> mu_j = -<J^T c_i, J^T a>; an element follows
  d/dmu = 2 c J J^T (a + mu c) with Adam, J the pushforward.
The next step's noise uses what this step learnt, so that mu and noise are independent.
Cost a step beyond the network calls: z: none; scalar 2 pullbacks; channel c + 1;
element 1 pullback and 1 pushforward (two renders).
Source: SteinDreamer (arXiv 2401.00604), eqs. 4 and 11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sdsjax.math import safe_divide, tree_inner

PSEUDO_OBSERVATIONS = 10.0
RIDGE = 1e-6


class MuFit(NamedTuple):
    """A way to fit mu.

    shape: z's shape -> mu's; init: z's shape -> memory; step: (memory, mu, a, c,
    linear) -> (memory, mu).
    """

    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    init: Callable[[tuple[int, ...]], Any]
    step: Callable[..., tuple[Any, jax.Array]]


class Sums(NamedTuple):
    """Decayed sums over steps: ac, cc (mu's shape) and the number of views."""

    ac: jax.Array
    cc: jax.Array
    count: jax.Array


class NormalEquations(NamedTuple):
    """Decayed normal equations of the channels: matrix [c c], vector [c]."""

    matrix: jax.Array
    vector: jax.Array


def scalar_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of one mu for all of z."""
    del shape
    return ()


def channel_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of one mu a channel, the last axis of z."""
    return (*(1,) * (len(shape) - 1), shape[-1])


def element_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of one mu an element of z."""
    return shape


SHAPES = {
    "scalar": scalar_shape,
    "channel": channel_shape,
    "element": element_shape,
}


def optimal_mu(ac: jax.Array, cc: jax.Array, count: jax.Array) -> jax.Array:
    """Returns -E[a c] / E[c c], drawn to the pooled ratio; 0 where nothing varies."""
    pooled = -safe_divide(jnp.sum(ac), jnp.sum(cc))
    extra = PSEUDO_OBSERVATIONS * safe_divide(jnp.mean(cc), count)
    return safe_divide(pooled * extra - ac, cc + extra)


def _over_views(products: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    # sum over views and over the axes that mu shares
    total = jnp.sum(products.astype(jnp.float32), 0)
    if not shape:
        return jnp.sum(total)
    shared = tuple(i for i, n in enumerate(shape) if n != total.shape[i])
    return jnp.sum(total, shared, keepdims=True)


def fit_in_z(shape_of, decay: float) -> MuFit:
    """Makes the fit by the closed form in z; no network or renderer is called."""

    def init(shape):
        zeros = jnp.zeros(shape_of(shape))
        return Sums(zeros, zeros, jnp.zeros(()))

    def step(sums, mu, a, c, linear):
        del linear
        sums = Sums(
            decay * sums.ac + _over_views(a * c, mu.shape),
            decay * sums.cc + _over_views(c * c, mu.shape),
            decay * sums.count + a.shape[0],
        )
        return sums, optimal_mu(*sums)

    return MuFit(shape_of, init, step)


def normal_equations(pullback, a, c, parts) -> NormalEquations:
    """Returns the normal equations <J^T c_i, J^T c_j> [k k] and <J^T c_i, J^T a> [k].

    c_i = c parts[i], parts [k ...] 0 or 1.
    """
    columns = jax.lax.map(lambda part: pullback(c * part), parts)
    target = pullback(a)

    def row(u):
        return jax.vmap(lambda v: tree_inner(u, v))(columns), tree_inner(u, target)

    return NormalEquations(*jax.lax.map(row, columns))


def fit_channels_in_theta(shape_of, decay: float) -> MuFit:
    """Makes the fit of one number or of the channels through the renderer.

    It solves their normal equations.
    """

    def size(shape):
        return max(1, jnp.zeros(shape_of(shape)).size)

    def init(shape):
        k = size(shape)
        return NormalEquations(jnp.zeros((k, k)), jnp.zeros(k))

    def step(memory, mu, a, c, linear):
        k = memory.vector.shape[0]
        parts = jnp.eye(k, dtype=c.dtype) if k > 1 else jnp.ones((1, 1), c.dtype)
        parts = parts.reshape(k, *(1,) * (c.ndim - 1), k)
        new = normal_equations(linear.pullback, a, c, parts)
        memory = jax.tree.map(lambda old, one: decay * old + one, memory, new)
        scale = jnp.trace(memory.matrix) / k
        matrix = memory.matrix + (RIDGE * scale + (scale <= 0)) * jnp.eye(k)
        return memory, -jnp.linalg.solve(matrix, memory.vector).reshape(mu.shape)

    return MuFit(shape_of, init, step)


def fit_elements_in_theta(shape_of, rate: float) -> MuFit:
    """Makes the fit by Adam at `rate` along the exact gradient of eq. 11, z's shape."""
    adam = optax.adam(rate)

    def init(shape):
        return adam.init(jnp.zeros(shape_of(shape)))

    def step(memory, mu, a, c, linear):
        pulled = linear.pullback(a + mu[None].astype(c.dtype) * c)
        slope = 2.0 * jnp.sum((c * linear.pushforward(pulled)).astype(jnp.float32), 0)
        updates, memory = adam.update(slope, memory)
        return memory, mu + updates

    return MuFit(shape_of, init, step)
