"""Whole steps with several noises a rendering: in turns, on devices, while learning."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from test_train_step import SCHEDULE, assemble, flat_representation

from sdsjax.cli.checks import resolve
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.training.build.noise import build_noise, check_estimator
from sdsjax.training.config import ConfigError
from sdsjax.training.noises.samples import NoiseSamples, first_statistics
from sdsjax.types import Estimate, Estimator

ALL = NoiseSamples(4, True, True, False, True)
UNIFORM = TIMESTEPS["uniform"]()


def stepped(noise, estimator, n=3, steps=2, **options):
    """The state and metrics after a few steps."""
    step, state, params, key = assemble(
        flat_representation(), estimator, n=n, sampler=UNIFORM, noise=noise, **options
    )
    state = state._replace(noise_state=first_statistics(noise))
    for _ in range(steps):
        state, metrics = step(state, params, key)
    return jax.device_get((state, metrics))


@pytest.mark.slow
def test_a_step_in_turns_is_the_step_and_notes_its_samples():
    sds = ESTIMATORS["sds"](SCHEDULE)
    whole, turns = stepped(ALL, sds), stepped(ALL, sds, microbatch=2)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), whole, turns
    )
    # .99 of the first step's 12 samples, and the second's
    assert abs(whole[0].noise_state.counts.sum() - 1.99 * 12) < 1e-3
    assert float(whole[1]["grad/pixels"]) > 1e-3


def test_the_direction_is_the_mean_over_the_samples():
    """A direction that is its own t: the mean pulled back is that of the metric."""

    def estimate(prior, key, state, z, t, view):
        del prior, key, state, view
        return Estimate(jnp.ones_like(z) * t, {})

    estimator = Estimator(lambda prior, key, z_spec: (), estimate)
    step, state, params, key = assemble(
        flat_representation("latent"), estimator, n=2, sampler=UNIFORM,
        noise=NoiseSamples(8, stratified=True),
    )  # fmt: skip
    before = np.asarray(state.params.pixels)
    state, metrics = step(state, params, key)
    np.testing.assert_allclose(before - state.params.pixels, metrics["t"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fit_space", ["z", "theta"])
def test_stein_goes_on_learning(fit_space):
    """phi = -1 on N(mean, 1): the optimum leaves e_s + mu eps without noise in z."""
    stein = ESTIMATORS["stein"](
        SCHEDULE, fit="scalar", fit_space=fit_space, guidance_scale=1.0, mu=0.0
    )
    fixed = TIMESTEPS["uniform"](t_min=400, t_max=400)
    step, state, params, key = assemble(
        flat_representation(), stein, n=2, sampler=fixed,
        optimizer=optax.sgd(0.0), noise=NoiseSamples(4),
    )  # fmt: skip
    state = jax.tree.map(jnp.copy, state)  # its zeros are one buffer
    for _ in range(80):
        state, _ = step(state, params, key)
    # e_s = sigma (z_t - ...): its noise is sigma^2 eps, and cv = -eps
    want = float(SCHEDULE.sigmas[400]) ** 2
    assert abs(float(state.estimator_state.mu) - want) < 0.15 * want


def test_learners_are_given_samples_of_equal_leading_axes():
    met = {}
    estimator = ESTIMATORS["sds"](SCHEDULE)

    def learn(prior, key, state, zs, ts, views, estimates, linear):
        leaves = zs, ts, views.camera.focal, estimates.grad
        met["axes"] = [leaf.shape[0] for leaf in leaves]
        met["pulled"] = linear.pullback(estimates.grad).pixels.shape
        met["pushed"] = linear.pushforward(linear.pullback(zs)).shape
        return state

    step, state, params, key = assemble(
        flat_representation(), estimator._replace(learn=learn), n=2,
        noise=NoiseSamples(6, antithetic=True),
    )  # fmt: skip
    jax.eval_shape(step, state, params, key)
    assert met["axes"] == [12] * 4
    assert met["pulled"] == (4, 4, 3)
    assert met["pushed"] == (12, 4, 4, 3)


@pytest.mark.parametrize("name", ["vsd", "stein"])
def test_importance_sampling_is_refused_for_what_learns(name):
    options = {"stein": {"fit": "scalar"}, "vsd": {}}[name]
    estimator = ESTIMATORS[name](SCHEDULE, **options)
    with pytest.raises(ConfigError, match=f"{name}' learns"):
        check_estimator(NoiseSamples(importance=True), name, estimator)
    check_estimator(NoiseSamples(4, True, True), name, estimator)
    check_estimator(NoiseSamples(importance=True), "sds", ESTIMATORS["sds"](SCHEDULE))


def test_a_config_says_all_of_it_and_bad_pairs_are_one_line():
    config = tiny_run.config(
        samples_per_view=4, noise__antithetic=True, noise__importance="true"
    )
    assert build_noise(config) == NoiseSamples(4, False, True, False, True)
    assert build_noise(resolve("ssd")) == NoiseSamples()
    with pytest.raises(ConfigError, match="samples_per_view = 3 is odd: choose 4"):
        tiny_run.config(samples_per_view=3, noise__antithetic=True)


MANY = """
import jax, numpy as np
from test_noise_steps import ALL, stepped
from test_train_step import SCHEDULE
from sdsjax.distributed.sharding import data_mesh
from sdsjax.estimators import ESTIMATORS
sds = ESTIMATORS["sds"](SCHEDULE)
mesh = data_mesh(4)
assert mesh.devices.size == 2
one, many = (stepped(ALL, sds, n=4, mesh=m) for m in (None, mesh))
close = np.testing.assert_allclose
jax.tree.map(lambda a, b: close(a, b, rtol=1e-4, atol=1e-6), one, many)
"""


@pytest.mark.slow
def test_two_devices_take_the_step_of_one():
    tests = Path(__file__).resolve().parents[1]
    paths = [tests.parent, tests, tests / "training"]
    flags = "--xla_force_host_platform_device_count=2"
    found = subprocess.run(
        [sys.executable, "-c", MANY],
        env={**os.environ, "PYTHONPATH": ":".join(map(str, paths)),
             "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
