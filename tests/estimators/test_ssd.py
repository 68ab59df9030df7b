"""SSD's two branches and ablations, and SDS's three terms, against the prior itself."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.terms import projection_ratio
from sdsjax.priors import gaussian_mixture

SCHEDULE, SHAPE, KEY = NoiseSchedule.scaled_linear(), (4, 4, 3), jax.random.key(1)
Z = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@cache
def prior(of=1.0):
    """N(of, .3) with the prompt, an equal mixture with N(-of, .3) without; its noise is
    compiled whole, where the estimators are called operation by operation."""
    means = of * np.stack([np.ones(SHAPE), -np.ones(SHAPE)])
    p = gaussian_mixture(SCHEDULE, [1.0, 1.0], means, [0.3, 0.3], [True, False])
    return p._replace(noise=jax.jit(p.noise, static_argnames="branches"))


def run(name, t, p=None, z=Z, **hyper):
    """The unweighted estimate, the prior's predictions at its z_t, and eps, in numpy.

    As a user calls it, without jit: the cases share their small programs."""
    p = p or prior()
    estimator = ESTIMATORS[name](SCHEDULE, weighting="one", **hyper)
    eps = jax.random.normal(jax.random.split(KEY)[0], z.shape)
    t = jnp.int32(t)
    e = p.noise(SCHEDULE.alphas[t] * z + SCHEDULE.sigmas[t] * eps, t)
    return jax.device_get((estimator.estimate(p, KEY, (), z, t, None), e, eps))


@pytest.mark.parametrize("omega", [0.0, 6.5, 100.0])
def test_sds_is_the_three_terms(omega):
    """e_s - eps = omega h + e_y - eps with omega = s - 1 (eq. 4)."""
    estimate, e, eps = run("sds", 200, guidance_scale=omega + 1)
    terms = omega * (e.cond - e.uncond) + e.cond - eps
    np.testing.assert_allclose(estimate.grad, terms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("t", "seeking"), [(400, True), (401, False)])
def test_above_the_threshold_is_h_and_below_is_scaled_to_it(t, seeking):
    estimate, e, eps = run("ssd", t, threshold=400)
    h = e.cond - e.uncond
    assert bool(estimate.aux["seeking"]) == seeking
    np.testing.assert_allclose(
        np.linalg.norm(estimate.grad), np.linalg.norm(h), rtol=1e-5
    )
    if seeking:
        assert abs(np.sum(estimate.grad * eps)) < 1e-3  # r eps is projected out
    else:
        np.testing.assert_array_equal(estimate.grad, h)


def test_a_threshold_that_is_not_reached_changes_nothing():
    low, high = (run("ssd", 500, threshold=m)[0].grad for m in (10, 499))
    np.testing.assert_array_equal(low, high)


def test_the_branches_are_the_single_terms():
    for t, name in [(100, "mode_seeking_adaptive"), (900, "mode_disengaging")]:
        ssd = run("ssd", t, threshold=500, rescale=False)[0].grad
        np.testing.assert_allclose(ssd, run(name, t)[0].grad, rtol=1e-5, atol=1e-6)


def test_the_ablations_are_what_they_say():
    ratios = {"none": 0.0, "sds": 1.0, "adaptive": None}
    for reduction, ratio in ratios.items():
        estimate, e, eps = run(
            "ssd", 100, threshold=400, rescale=False, reduction=reduction
        )
        ratio = projection_ratio(e.cond, eps) if ratio is None else ratio
        np.testing.assert_allclose(
            estimate.grad, e.cond - ratio * eps, rtol=1e-5, atol=1e-6
        )


def test_zero_over_zero_is_guarded():
    """The conditional and the unconditional prior are one point at z: e_y = h = 0."""
    p = prior(0.0)
    zero = p._replace(noise=lambda z, t, v=None, branches=(): p.noise(0 * z, t, v))
    estimate, e, _ = run("ssd", 100, zero, 0 * Z, threshold=400)
    np.testing.assert_array_equal([e.cond, e.uncond], 0.0)
    np.testing.assert_array_equal(estimate.grad, 0.0)


@pytest.mark.parametrize("dimension", [2, 3, 10])
def test_r_takes_one_dimension_of_the_signal(dimension):
    """E[e~] = (1 - 1/d) E[e_y] for e_y = k eps + c: r removes c's part along eps."""
    eps = np.random.default_rng(0).normal(size=(40_000, dimension)).astype(np.float32)
    e = np.float32(0.4) * eps + np.eye(dimension, dtype=np.float32)[0]
    ratios = jax.jit(jax.vmap(projection_ratio))(e, eps)
    reduced = e - np.asarray(ratios)[:, None] * eps
    np.testing.assert_allclose(reduced.mean(0)[0], 1 - 1 / dimension, atol=0.01)
