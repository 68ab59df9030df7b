"""Density control inside the training step: what it gathers, one trace, resuming."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_rows import KEY, OFTEN
from jitted import random_orbits

from sdsjax.cameras import OrbitRange
from sdsjax.diffusion import NoiseSchedule
from sdsjax.representations.gaussians import GaussianParams, gaussians
from sdsjax.representations.gaussians.density_control.statistics import (
    probe_screen_gradient,
)
from sdsjax.training.optimizers import grouped_adam
from sdsjax.training.train_step import init_state, make_train_step
from sdsjax.types import Estimate, Estimator, NoisePrediction, Prior, PriorSource

SCHEDULE = NoiseSchedule.scaled_linear()


@pytest.mark.slow
def test_the_probe_gathers_screen_gradients_of_all_views():
    """Against the reference's gradient of each view by that view's own offset."""
    from sdsjax.render.splatting.rasterize import rasterize_reference
    from sdsjax.representations.gaussians import as_gaussians

    representation = gaussians(count=30, control="3dgs", background="white")
    params, state = representation.init(jax.random.key(1))
    cameras = random_orbits(jax.random.key(2), 3, OrbitRange(), width=24, height=16)
    pull = jax.random.normal(jax.random.key(3), (3, 16, 24, 3))

    def total(probe):
        views = jax.vmap(lambda c: representation.render(params, state, c, KEY, probe))
        return jnp.sum(views(cameras).rgb * pull)

    got = jax.jit(jax.grad(total))(representation.probe(params))

    def one(offset, camera, pull):
        drawn = rasterize_reference(
            as_gaussians(params, state), camera, background=jnp.ones(3),
            screen_offset=offset,
        )  # fmt: skip
        return jnp.sum(drawn.rgb * pull)

    slopes = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(
        np.zeros((30, 2), np.float32), cameras, pull
    )
    want = np.sum(np.linalg.norm(slopes * np.array([12.0, 8.0]), axis=-1), axis=0)
    assert want.max() > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert not jnp.any(probe_screen_gradient(jnp.ones(4), jnp.eye(4), (3.0, 2.0)))


RULES = {
    "3dgs": {"every": 2, "threshold": 0.0, "reset_every": 3},
    "stabledreamer": {"every": 2, "threshold": 0.0, "reset_every": 3},
    "mcmc": {"every": 2, "noise": 0.1},
}


@cache
def assembled(rule, count=60, n=2):
    """The training step, what makes its first state (a step takes it: each test has its
    own) and the prior's parameters, towards red pictures. The second step is the first
    that edits."""
    settings = {f"control_{k}": v for k, v in {**OFTEN, **RULES[rule]}.items()}
    representation = gaussians(count=count, init_count=40, control=rule, **settings)

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        return NoisePrediction(**dict.fromkeys(branches, z_t))

    source = PriorSource(
        jnp.zeros(()), lambda params: Prior(SCHEDULE, noise, encode=lambda x: x)
    )

    def estimate(prior, key, state, z, t, view):
        return Estimate(z - jnp.array([1.0, -1.0, -1.0]), {})

    estimator = Estimator(lambda *_: (), estimate)
    fields = GaussianParams._fields
    optimizer = grouped_adam(dict.fromkeys(fields, 0.02), fields=fields)
    cameras = partial(random_orbits, count=n, orbit=OrbitRange(), width=16, height=16)
    sampler = lambda key, step, total, shape: jnp.full(shape, 500)  # noqa: E731
    parts = (source, representation, estimator, optimizer)
    step = make_train_step(*parts, sampler, cameras, total=10)
    begin = jax.jit(lambda key: init_state(*parts, cameras, source.params, key))
    return step, begin, source.params


def begun(rule):
    step, begin, prior_params = assembled(rule)
    return step, begin(jax.random.key(0)), prior_params


@pytest.mark.parametrize(
    "rule",
    [pytest.param(r, marks=() if r == "3dgs" else pytest.mark.slow) for r in RULES],
)
def test_training_goes_on_with_one_trace_and_resumes_bit_for_bit(rule):
    step, state, prior_params = begun(rule)
    kept, rows = None, []
    for i in range(6):
        if i == 3:
            kept = jax.device_get(state)
        state, metrics = step(state, prior_params, KEY)
        rows.append({k: float(v) for k, v in metrics.items()})
        assert metrics["finite"]
    assert step._cache_size() == 1
    assert rows[0]["control/alive"] == 40
    assert rows[1]["control/alive"] > 40
    assert rows[-1]["control/cloned"] + rows[-1]["control/split"] >= 4
    if rule == "3dgs":
        assert rows[1]["control/alive"] == 60
        assert rows[1]["control/shortfall"] == 20
        assert rows[0]["control/gradient"] > 0
    for _ in range(3, 6):
        kept, _ = step(kept, prior_params, KEY)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(kept)):
        np.testing.assert_array_equal(a, b)


def test_dead_rows_get_no_gradient_and_do_not_move():
    step, state, prior_params = begun("3dgs")
    before = jax.device_get(state.params)
    state, metrics = step(state, prior_params, KEY)
    assert int(metrics["control/alive"]) == 40
    after = state.params
    for name in before._fields:
        old, new = getattr(before, name), np.asarray(getattr(after, name))
        np.testing.assert_array_equal(new[40:], old[40:], err_msg=name)
        assert np.any(new[:40] != old[:40]), name


def test_no_control_leaves_state_and_metrics_as_they_were():
    representation = gaussians(count=8)
    assert representation.control is None
    assert representation.probe is None
    _, state = jax.eval_shape(representation.init, KEY)
    assert len(jax.tree.leaves(state)) == 1
