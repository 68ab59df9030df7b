"""The gradient carried on from step to step: its mean, its variance, its beginnings."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from test_train_step import (
    SCHEDULE,
    assemble,
    flat_representation,
    front_views,
    gaussian_source,
)

from sdsjax.cli.checks import resolve
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.training.build.noise import build_recursive
from sdsjax.training.config import ConfigError
from sdsjax.training.forward_pass import make_forward
from sdsjax.training.noises.recursive import (
    Recursive,
    best_gain,
    carry,
    first_carried,
    next_variance,
)
from sdsjax.training.pullback import floating
from sdsjax.training.train_step import make_gradient, step_keys

WIDE = TIMESTEPS["annealed_window"]()


@jax.jit
def begun(state):
    """The state with nothing carried yet; its zeros are one buffer each."""
    carried = first_carried(state.params, state.rep_state, floating(state.params))
    return jax.tree.map(jnp.copy, state._replace(carried=carried))


@cache
def stepped(recursive, steps=3, rate=1e-2):
    """The states and the metrics after each of a few steps of sds on N(mean, 1)."""
    step, state, params, key = assemble(
        flat_representation(), ESTIMATORS["sds"](SCHEDULE), optax.sgd(rate),
        sampler=WIDE, recursive=recursive,
    )  # fmt: skip
    state = begun(state) if recursive else state
    states, seen = [], []
    for _ in range(steps):
        state, metrics = step(state, params, key)
        # copies: the next step may have these buffers for its own
        states.append(jax.tree.map(np.array, state))
        seen.append(jax.device_get(metrics))
    return states, seen


def walk(drift, steps=60):
    """Returns a path of theta [steps 8]."""
    each = np.asarray(jax.random.normal(jax.random.key(1), (steps, 8)))
    return np.cumsum(np.float32(drift) * each, 0)


@partial(jax.jit, static_argnums=0)
def chained(found, gain, path, moves, shakes, keys):
    """Finds d at a path's end, and its last predicted variance, for each key.

    found: whether the best gain is looked for, in the place of `gain`. The rest are
    arguments, for one program to serve all paths.
    """

    def gradient(theta, key):
        one, two = jax.random.normal(key, (2, 8))
        return theta * (moves + shakes * one) + two

    def chain(key):
        carried = first_carried(path[0], (), path[0])

        def one(carried, index):
            own = jax.random.fold_in(key, index)
            new, old = gradient(path[index], own), gradient(carried.params, own)
            mean, carried, told = carry(
                Recursive(None if found else gain),
                carried, new, old, path[index], (), index == 0,
            )  # fmt: skip
            return carried, (mean, told["recursive/variance"])

        _, (means, variances) = jax.lax.scan(one, carried, jnp.arange(len(path)))
        return means[-1], variances[-1]

    return jax.vmap(chain)(keys)


def drifting(gain, chains=400, drift=0.05, moves=1.0, shakes=0.2):
    """Chains of d along one path, each with draws of its own.

    G(theta, xi) = theta (moves + shakes xi_1) + xi_2 in 8 dimensions, xi normal: its
    mean is moves theta, and two steps' gradients under one xi differ by the step times
    the bracket. Returns d [chains 8], E G at the end, the plain gradient's variance,
    and the last predicted variances.
    """
    path, keys = walk(drift), jax.random.split(jax.random.key(0), chains)
    means, predicted = chained(gain is None, gain or 0.0, path, moves, shakes, keys)
    end = path[-1]
    plain = float(np.sum(1 + (shakes * end) ** 2))
    return np.asarray(means), moves * end, plain, np.asarray(predicted)


@pytest.mark.parametrize("gain", [None, 0.2])
def test_its_mean_is_the_gradients_and_its_variance_a_fraction(gain):
    means, truth, plain, _ = drifting(gain)
    variance = means.var(0, ddof=1)
    error = np.sqrt(variance / len(means))
    assert (np.abs(means.mean(0) - truth) < 4.5 * error).all()
    # half of the plain variance pays for the second gradient; this has far less
    assert variance.sum() < 0.25 * plain


def test_it_knows_its_own_variance():
    """Of gradients whose mean stays, so that all that changes is noise."""
    means, _, plain, predicted = drifting(None, drift=0.2, moves=0.0, shakes=1.0)
    variance = means.var(0, ddof=1).sum()
    assert variance < 0.5 * plain
    np.testing.assert_allclose(predicted.mean(), variance, rtol=0.25)


def test_a_momentum_of_the_same_gain_lags_behind():
    """What the correction is for: without it the mean is that of earlier steps."""
    means, truth, *_ = drifting(0.1)
    path = walk(0.05)
    lagging = path[0]
    for theta in path[1:]:
        lagging = 0.9 * lagging + 0.1 * theta
    carried = np.linalg.norm(means.mean(0) - truth)
    assert carried < 0.3 * np.linalg.norm(lagging - truth)


def test_three_steps_by_hand():
    """Gain .25 on numbers; g and h are gradients of one draw, at a step and the last.

    d_0 = 4; d_1 = 10 + .75 (4 - 6) = 8.5; d_2 = -2 + .75 (8.5 - 1) = 3.625.
    """
    one = partial(np.full, 1, dtype=np.float32)
    carried = jax.tree.map(np.asarray, first_carried(one(0), (), one(0)))
    joined = jax.jit(partial(carry, Recursive(0.25)))
    found = []
    for step, (g, h) in enumerate([(4.0, np.nan), (10.0, 6.0), (-2.0, 1.0)]):
        mean, carried, _ = joined(carried, one(g), one(h), one(step), (), step == 0)
        found.append(float(np.asarray(mean)[0]))
    assert found == [4.0, 8.5, 3.625]
    assert (float(np.asarray(carried.params)[0]), int(carried.age)) == (2.0, 3)
    # .9 of what was and .1 of what is: 4^2 and 3^2; 2^2 and 7.5^2
    np.testing.assert_allclose(carried.change, 15.3, rtol=1e-6)
    np.testing.assert_allclose(carried.spread, 9.225, rtol=1e-6)
    # P is 2^2 / 2 at first, then 13.25; sigma what the spread leaves of it, or 0
    np.testing.assert_allclose(carried.variance, 18.928125, rtol=1e-6)


@pytest.mark.parametrize("known", [(1.0, 0.2, 3.0), (0.1, 0.001, 1.0), (5.0, 4.0, 1.0)])
def test_the_gain_leaves_the_least_variance(known):
    gains = np.linspace(0, 1, 10001)
    left = next_variance(gains, *known)
    best = float(jax.jit(best_gain)(*map(np.float32, known)))
    assert abs(gains[np.argmin(left)] - best) < 2e-4


def test_a_gain_of_one_is_the_plain_step():
    plain, seen = stepped(None)
    carried, seen_carried = stepped(Recursive(1.0))
    np.testing.assert_array_equal(plain[-1].params.pixels, carried[-1].params.pixels)
    np.testing.assert_array_equal(seen[-1]["grad_z"], seen_carried[-1]["grad_z"])


def test_the_old_gradient_is_the_last_steps_own():
    """Where theta stands still and t's range too, d is the mean of all gradients."""
    still = TIMESTEPS["uniform"](t_min=400, t_max=400)
    step, state, params, key = assemble(
        flat_representation(), ESTIMATORS["sds"](SCHEDULE), optax.sgd(0.0),
        sampler=still, recursive=Recursive(0.5),
    )  # fmt: skip
    state = begun(state)
    for _ in range(3):
        state, _ = step(state, params, key)
    plain, own, *_ = assemble(
        flat_representation(), ESTIMATORS["sds"](SCHEDULE), optax.sgd(1.0),
        sampler=still,
    )  # fmt: skip
    start_at = jax.jit(
        lambda state, step: jax.tree.map(jnp.copy, state._replace(step=step))
    )
    gradients = []
    for index in range(3):
        start = start_at(own, index)
        before = np.asarray(start.params.pixels)
        gradients.append(before - plain(start, params, key)[0].params.pixels)
    mean = 0.25 * gradients[0] + 0.25 * gradients[1] + 0.5 * gradients[2]
    np.testing.assert_allclose(
        state.carried.mean.pixels, mean, rtol=1e-3, atol=1e-4 * np.abs(mean).max()
    )


def test_three_whole_steps_are_the_formula():
    """Each step's gradient has a t of its own, and meets the last one's parameters."""

    def falling(key, step, total, shape):
        return jnp.full(shape, 900 - 300 * step, jnp.int32)

    representation, sds = flat_representation(), ESTIMATORS["sds"](SCHEDULE)
    step, state, params, key = assemble(
        representation, sds, optax.sgd(0.1), sampler=falling, recursive=Recursive(0.25)
    )
    state, source = begun(state), gaussian_source()
    draw = make_forward(source, representation)
    gradient = make_gradient(source, draw, representation, sds, falling, 10)

    @jax.jit
    def pixels(index, theta, draws):
        keys = step_keys(key, draws)
        at = before._replace(step=index, params=theta)
        views = front_views(keys["camera"], 2)
        return gradient(at, params, views, keys)[0].pixels

    before, thetas, wanted = jax.tree.map(np.array, state), [], None
    for index in range(3):
        thetas.append(jax.tree.map(np.array, state.params))
        state, _ = step(state, params, key)
        wanted, last = np.asarray(pixels(index, thetas[index], index)), wanted
        if last is not None:
            old = np.asarray(pixels(index - 1, thetas[index - 1], index))
            wanted = wanted + 0.75 * (last - old)
    np.testing.assert_allclose(
        state.carried.mean.pixels, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max()
    )


def test_a_new_phase_begins_anew():
    # a step that is not the first reads what is carried, which is nothing yet
    _, seen = stepped(Recursive(first=1), steps=3)
    assert [float(m["recursive/gain"]) for m in seen] == [0.5, 1.0, 0.5]


def test_the_step_draws_what_the_plain_one_draws():
    (plain, *_), seen = stepped(None)
    (carried,), seen_carried = stepped(Recursive(), steps=1)
    assert seen[0]["t"] == seen_carried[0]["t"]
    jax.tree.map(np.testing.assert_array_equal, plain.params, carried.params)


def test_a_config_asks_for_it_and_a_bad_pair_is_one_line():
    sds, flat = ESTIMATORS["sds"](SCHEDULE), flat_representation()
    config = tiny_run.config(optimizer__recursive="true")
    assert build_recursive(config, sds, flat) == Recursive()
    assert build_recursive(resolve("ssd"), sds, flat) is None
    stein = ESTIMATORS["stein"](SCHEDULE, fit="scalar")
    with pytest.raises(ConfigError, match="name=ssd learns from step to step"):
        build_recursive(config, stein, flat)
    moving = flat_representation(control=lambda *parts: parts)
    gaussians = tiny_run.gaussians(optimizer__recursive=True)
    with pytest.raises(ConfigError, match=r"control=none moves rows"):
        build_recursive(gaussians, sds, moving)
    config = tiny_run.config(optimizer__recursive=True, particles=2)
    with pytest.raises(ConfigError, match="particles=2 take turns"):
        build_recursive(config, sds, flat)
