"""Chains of carried gradients along one path of a run, each with draws of its own.

Of a run of `sds` the states of the `burn` steps before a mark are kept going; at each
of them R chains draw cameras, backgrounds, t and noise anew, and meet the gradient of
the state and that of the state before under the same draws. At the mark, over the
chains, and with N plain gradients G of the same state beside them:

    variance  tr Cov(d), the sum over the parameters
    away      |E d - E G|^2 / |E G|^2, the unbiased estimate, which may be negative

Errors: delete-one jackknife over the chains, for the distance over the plain ones too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from sdsjax.studies.run_states import WARM, Point, stepper
from sdsjax.studies.statistics import covariance_trace, jackknife, squared_mean
from sdsjax.training.forward_pass import make_forward
from sdsjax.training.noises.recursive import Recursive, carry, first_carried
from sdsjax.training.train_step import make_gradient, step_keys

KEYS = jax.random.key(29)
MOMENTUM = 0.1  # weight of the newest gradient
CARRIED = {
    "recursive, gain found": Recursive(),
    "recursive, gain .1": Recursive(0.1),
    "recursive, gain .3": Recursive(0.3),
}


class Chains(NamedTuple):
    """What stands at a mark: plain gradients [N numbers], d [R numbers] by name.

    gain: the mean over the chains of the gain that was found.
    """

    plain: np.ndarray
    carried: dict[str, np.ndarray]
    gain: float


def make_plain_gradient(point: Point) -> Callable:
    """Makes (state, prior_params, keys [n]) -> a step's gradient for each [n numbers].

    One key draws the same at every state.
    """
    built = point.built
    draw = make_forward(built.source, built.representation)
    gradient = make_gradient(
        built.source, draw, built.representation, built.estimator, built.sampler,
        point.total,
    )  # fmt: skip

    def one(state, prior_params, key):
        keys = step_keys(key, jnp.zeros((), jnp.int32))
        views = built.phases[-1].cameras(keys["camera"])
        return ravel_pytree(gradient(state, prior_params, views, keys)[0])[0]

    @jax.jit
    def gradients(state, prior_params, keys):
        state = state._replace(noise_state=())
        return jax.lax.map(lambda key: one(state, prior_params, key), keys)

    return gradients


def owned(state):
    """A copy: the run's step donates its state."""
    return jax.tree.map(jnp.copy, state)


def follow(point: Point, burn: int, chains: int, plain: int) -> Chains:
    """Walks `burn` steps from a state, chains alongside, and measures where it ends."""
    built, params = point.built, point.built.source.params
    gradients, step = make_plain_gradient(point), stepper(built, point.total, WARM)
    state, before = owned(point.state), owned(point.state)
    numbers = jax.eval_shape(gradients, state, params, jax.random.split(KEYS, 1))
    rows = jnp.zeros((chains, numbers.shape[1]), jnp.float32)
    begun = jax.vmap(lambda row: first_carried((), (), row))(rows)
    carried = dict.fromkeys(CARRIED, begun)
    momentum, found = rows, {}

    @jax.jit
    def carry_all(carried, new, old, begin):
        joined = {}
        for name, how in CARRIED.items():
            joined[name] = jax.vmap(
                lambda c, g, h, how=how: carry(how, c, g, h, (), (), begin)
            )(carried[name], new, old)
        return joined

    for index in range(burn + 1):
        keys = jax.random.split(jax.random.fold_in(KEYS, index), chains)
        new, old = gradients(state, params, keys), gradients(before, params, keys)
        begin = index == 0
        joined = carry_all(carried, new, old, begin)
        carried = {name: one[1] for name, one in joined.items()}
        found = joined["recursive, gain found"][2]
        momentum = new if begin else (1 - MOMENTUM) * momentum + MOMENTUM * new
        if index < burn:
            before = owned(state)
            state, _ = step(state, params, jax.random.key(0))
    keys = jax.random.split(jax.random.fold_in(KEYS, burn + 1), plain)
    ends = {name: np.asarray(one.mean) for name, one in carried.items()}
    return Chains(
        np.asarray(gradients(state, params, keys)),
        {"momentum .1": np.asarray(momentum), **ends},
        float(jnp.mean(found["recursive/gain"])),
    )


def away_from(own: np.ndarray, plain: np.ndarray) -> tuple[float, np.ndarray]:
    """|E own - E plain|^2 without bias: (value, values without one row of `own`).

    Neither square has a draw's product with itself in it.
    """
    value, left = squared_mean(own, own)
    other, _ = squared_mean(plain, plain)
    each = own @ plain.mean(0)
    without = (each.sum() - each) / (len(own) - 1)
    return value - 2 * each.mean() + other, left - 2 * without + other


def describe(found: Chains) -> dict:
    """The row of a mark: variances, and how far each mean is from the plain one."""
    plain = found.plain.astype(np.float64)
    variance, left = covariance_trace(plain, plain)
    signal, signal_left = squared_mean(plain, plain)
    row = {
        "signal": jackknife(signal, signal_left),
        "plain": jackknife(variance, left),
        "gain": found.gain,
        "options": {},
    }
    for name, values in found.carried.items():
        values = values.astype(np.float64)
        # both samples make the distance uncertain, and independently
        away, over_chains = jackknife(*away_from(values, plain))
        _, over_plain = jackknife(*away_from(plain, values))
        error = float(np.hypot(over_chains, over_plain))
        row["options"][name] = {
            "variance": jackknife(*covariance_trace(values, values)),
            "away": [away / signal, error / signal],
        }
    return row
