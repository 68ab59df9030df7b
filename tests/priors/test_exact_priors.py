"""The exact priors against autodiff of their log density and brute force."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule, alpha_sigma
from sdsjax.priors import empirical, gaussian_mixture

SCHEDULE = NoiseSchedule.scaled_linear()
WEIGHTS = np.float32([0.2, 0.4, 0.4])
MEANS = np.float32([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]])
VARIANCES = np.float32([0.1, 0.05, 0.05])
KEEP = np.array([False, True, True])


def log_density(z_t, schedule, t, keep):
    alpha, sigma = alpha_sigma(schedule, t)
    total = alpha**2 * VARIANCES + sigma**2
    square = jnp.sum((z_t - alpha * MEANS) ** 2, axis=1)
    parts = jnp.log(WEIGHTS * keep) - square / (2 * total) - jnp.log(total)
    return jax.nn.logsumexp(parts)


slope = jax.jit(jax.grad(log_density))


@cache
def mixture_noise():
    """(z_t, t) -> the prior's noise, of one program for every t."""
    prior = gaussian_mixture(SCHEDULE, WEIGHTS, MEANS, VARIANCES, KEEP)
    return jax.jit(lambda z_t, t: prior.noise(z_t, t, None, ("cond", "uncond")))


@pytest.mark.parametrize("t", [0, 20, 350, 999])
def test_mixture_noise_is_minus_sigma_times_the_score(t):
    sigma, noise = np.asarray(SCHEDULE.sigmas)[t], mixture_noise()
    for z_t in np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32):
        e = noise(z_t, np.int32(t))
        for got, keep in [(e.cond, KEEP), (e.uncond, np.ones(3, bool))]:
            score = np.asarray(slope(z_t, SCHEDULE, np.int32(t), keep))
            np.testing.assert_allclose(got, -sigma * score, rtol=2e-3, atol=2e-4)
        assert e.negative is None


def test_only_the_branches_asked_for():
    prior = gaussian_mixture(
        SCHEDULE, WEIGHTS, MEANS, VARIANCES, KEEP, negative=[True, False, False]
    )
    only = gaussian_mixture(SCHEDULE, [1.0], MEANS[:1], VARIANCES[:1], [True])

    @jax.jit
    def both(z_t, t):
        alone = only.noise(z_t, t, None, ("cond",)).cond
        return prior.noise(z_t, t, None, branches=("negative",)), alone

    e, want = both(np.zeros(2, np.float32), np.int32(300))
    assert e.cond is None
    assert e.uncond is None
    np.testing.assert_allclose(e.negative, want, atol=1e-6)


def test_empirical_is_the_mixture_of_zero_variance():
    rng, keep = np.random.default_rng(1), np.arange(7) < 4
    points = rng.normal(size=(7, 3, 3, 2)).astype(np.float32)
    z_t = rng.normal(size=(3, 3, 2)).astype(np.float32)

    @jax.jit
    def both(t):
        exact = empirical(SCHEDULE, points, keep)
        mixture = gaussian_mixture(SCHEDULE, jnp.ones(7), points, jnp.zeros(7), keep)
        return exact.noise(z_t, t, None), mixture.noise(z_t, t, None)

    for t in (50, 400, 900):
        a, b = both(jnp.int32(t))
        np.testing.assert_allclose(a.cond, b.cond, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(a.uncond, b.uncond, rtol=1e-4, atol=1e-4)


def test_empirical_stays_exact_where_sigma_is_small():
    """Near one of 300 images at t = 0 the denoised image is that image."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (300, 16, 16, 3)).astype(np.float32)
    eps = rng.normal(size=images[7].shape).astype(np.float32)

    @jax.jit
    def cond(images, eps):
        prior = empirical(SCHEDULE, images, np.arange(300) < 150)
        alpha, sigma = alpha_sigma(SCHEDULE, 0)
        z_t = alpha * images[7] + sigma * eps
        return prior.noise(z_t, jnp.int32(0), None).cond

    got = cond(images, eps)
    np.testing.assert_allclose(got, eps, atol=2e-4)


def test_adapter_reaches_the_noise_of_a_known_point():
    """psi = (z, variance 0) predicts eps exactly: a converged VSD network."""
    prior = gaussian_mixture(SCHEDULE, WEIGHTS, MEANS, VARIANCES, KEEP)
    psi = prior.adapter.init(jax.random.key(0))
    z, eps, t = np.float32([0.3, -2.0]), np.float32([1.0, 0.5]), np.int32(200)
    alpha, sigma = (np.asarray(of)[t] for of in SCHEDULE)
    known = psi._replace(mean=z, log_variance=np.float32(-40.0))
    got = jax.jit(prior.adapter.noise)(known, alpha * z + sigma * eps, t, None)
    np.testing.assert_allclose(got, eps, atol=1e-5)


def test_masks_and_shapes_are_checked():
    with pytest.raises(ValueError, match="keeps nothing"):
        gaussian_mixture(SCHEDULE, WEIGHTS, MEANS, VARIANCES, [False] * 3)
    with pytest.raises(ValueError, match="conditional has shape"):
        empirical(SCHEDULE, jnp.zeros((4, 2, 2, 3)), [True])
    with pytest.raises(ValueError, match="weights"):
        gaussian_mixture(SCHEDULE, [1.0], MEANS, VARIANCES, KEEP)
