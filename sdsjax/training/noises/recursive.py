"""The gradient carried on from step to step: recursive momentum with a gain.

Let G_s(theta, xi) be step s's gradient at theta, xi all that the step draws: cameras,
backgrounds, t and noise. Two steps' parameters lie close together, so that gradients of
both under the *same* xi differ far less than two draws of one do:

    d_s = G_s(theta_s, xi_s) + (1 - a_s) (d_{s-1} - G_{s-1}(theta_{s-1}, xi_s))

With a_s = 1 it is the plain gradient. For any a_s that does not look at xi_s, d_s - E
G_s(theta_s) has the mean (1 - a_s) (d_{s-1} - E G_{s-1}(theta_{s-1})): what is carried
on has no bias where it began without one, unlike a momentum, whose mean lags. A step
costs two gradients. The recursion is STORM's (Cutkosky and Orabona 2019, arXiv
1905.10018, eq. 2); a_s is found from earlier steps. With P the variance of d_{s-1},
delta that of the difference and sigma that of one gradient (both squared), the gain

    a = (P + delta / 2) / (P + sigma)

makes (1 - a)^2 (P + delta) + a^2 sigma + a (1 - a) delta, the variance of d_s, least:
set its derivative to zero, the draws of both gradients being the same. What is known
of delta holds the mean's own change too, which makes P and the gain a little large.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.types import Array, PyTree

FORGET = 0.9  # of the running means of delta and sigma: about ten steps


class Recursive(NamedTuple):
    """How gradients are carried on.

    gain: None finds a_s, a number fixes it; first: the step that begins anew.
    """

    gain: float | None = None
    first: int = 0


class Carried(NamedTuple):
    """What a step hands on to the next; every number is of all parameters together.

    params, rep_state: those that the last step's gradient was taken at; mean: d of that
    step, None where a leaf does not move; variance: P; change, spread: running means of
    |G_s - G_{s-1}|^2 and of |d_{s-1} - G_{s-1}|^2 under the same draws, each a sum over
    parameters; age: steps since it began.
    """

    params: PyTree
    rep_state: PyTree
    mean: PyTree
    variance: Array
    change: Array
    spread: Array
    age: Array


def first_carried(params: PyTree, rep_state: PyTree, theta: PyTree) -> Carried:
    """Makes what the first step finds: nothing yet; theta: what moves of params."""
    empty = [jax.tree.map(jnp.zeros_like, tree) for tree in (params, rep_state, theta)]
    zeros = [jnp.zeros((), jnp.float32) for _ in range(3)]
    return Carried(*empty, *zeros, age=jnp.zeros((), jnp.int32))


def best_gain(variance: Array, change: Array, spread: Array) -> Array:
    """Finds the gain in [0, 1] that leaves the next gradient the least variance.

    variance: P of what is carried; change: delta; spread: sigma; see the file's head.
    """
    gain = (variance + change / 2) / jnp.maximum(variance + spread, 1e-30)
    return jnp.clip(gain, 0.0, 1.0)


def next_variance(gain: Array, variance: Array, change: Array, spread: Array) -> Array:
    """Predicts the variance of the gradient that a gain leaves; see the file's head."""
    left = 1 - gain
    return left**2 * (variance + change) + gain**2 * spread + gain * left * change


def _squares(tree: PyTree) -> Array:
    leaves = [jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(leaves))


def carry(
    how: Recursive, carried: Carried, new: PyTree, old: PyTree, params, rep_state, begin
) -> tuple[PyTree, Carried, dict[str, Array]]:
    """Joins a step's gradient with what is carried: (d_s, for the next step, metrics).

    new, old: G_s at params and rep_state, G_{s-1} at those carried, of the same draws;
    begin: whether the step is the first of its kind, when `old` means nothing and is
    not read. The gain is found before the draws are looked at.
    """
    age = jnp.where(begin, 0, carried.age)
    spread = jnp.maximum(carried.spread - carried.variance, 0.0)
    found = best_gain(carried.variance, carried.change, spread)
    # nothing is known of the second step: the mean of two draws
    found = (
        jnp.where(age < 2, 0.5, found) if how.gain is None else jnp.float32(how.gain)
    )
    gain = jnp.where(begin, 1.0, found)

    difference = jax.tree.map(jnp.subtract, carried.mean, old)
    # not a sum with a weight of 0: what is not read may be NaN
    mean = jax.tree.map(
        lambda g, d: jnp.where(begin, g, g + (1 - gain) * d), new, difference
    )
    change = _squares(jax.tree.map(jnp.subtract, new, old))
    innovation = _squares(difference)

    def running(kept, value):
        kept = jnp.where(age < 2, value, FORGET * kept + (1 - FORGET) * value)
        return jnp.where(begin, 0.0, kept)

    change, innovation = (
        running(carried.change, change),
        running(carried.spread, innovation),
    )
    # after one draw P is one gradient's variance: half of what two draws differ by
    before = jnp.where(age < 2, innovation / 2, carried.variance)
    spread = jnp.maximum(innovation - before, 0.0)
    variance = jnp.where(begin, 0.0, next_variance(gain, before, change, spread))
    metrics = {"recursive/gain": gain, "recursive/variance": variance}
    onward = Carried(params, rep_state, mean, variance, change, innovation, age + 1)
    return mean, onward, metrics
