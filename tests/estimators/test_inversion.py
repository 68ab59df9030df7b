"""DDIM inversion, and the two estimators that stand on it."""

from functools import cache
from itertools import pairwise

import jax
import numpy as np
import pytest
from linear_prior import MEANS, SCHEDULE, VARIANCES, gaussian_noise, level, linear_prior

from sdsjax.diffusion import ddim_step
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.inversion import invert, renoise
from sdsjax.estimators.ism import inversion_times as ism_times
from sdsjax.estimators.sdi import inversion_times as sdi_times
from sdsjax.types import NoisePrediction

Z, KEY = np.float32([0.4, -0.7]), jax.random.key(1)
EPS = np.asarray(jax.random.normal(jax.random.split(KEY)[0], (2,)), np.float64)


def predicted(z_s, s, branch):
    """The exact prediction in float64, at time s (clean z at time 0)."""
    alpha, sigma = level(max(s, 0))
    return gaussian_noise(
        z_s, alpha, sigma, np.asarray(MEANS[branch]), VARIANCES[branch]
    )


def stepped(z_s, e, s, s_next):
    alpha, sigma = (1.0, 0.0) if s < 0 else level(s)
    zhat = (z_s - sigma * e) / alpha
    return level(s_next)[0] * zhat + level(s_next)[1] * e


@cache
def estimating(name, **hyper):
    """t -> the unweighted gradient at Z, of one program for every t."""
    estimator = ESTIMATORS[name](SCHEDULE, weighting="one", **hyper)
    prior = linear_prior()
    return jax.jit(lambda t: estimator.estimate(prior, KEY, (), Z, t, None).grad)


def estimate(name, t, **hyper):
    return np.asarray(estimating(name, **hyper)(np.int32(t)))


def test_what_is_inverted_is_sampled_back():
    """Down again by DDIM along the same 200 times: z returns."""
    prior, t, n = linear_prior(), 700, 200
    times = jax.jit(sdi_times, static_argnums=1)(t, n)

    def predict(z_s, s):
        return prior.noise(z_s, s).uncond

    def down(z_s, pair):
        s, s_next = pair
        return ddim_step(SCHEDULE, z_s, predict(z_s, s), s, s_next), None

    @jax.jit
    def up_and_down(times):
        z_t = invert(SCHEDULE, predict, Z, times)
        return z_t, jax.lax.scan(down, z_t, (times[:0:-1], times[-2::-1]))[0]

    z_t, back = up_and_down(times)
    assert float(np.abs(z_t - Z).max()) > 0.1
    np.testing.assert_allclose(back, Z, atol=0.02)


renoised = jax.jit(renoise)  # one program for every time


@pytest.mark.parametrize(("s", "known"), [(-1, (1.0, 0.0)), (0, None), (300, None)])
def test_only_the_time_before_zero_is_clean(s, known):
    alpha, sigma = known or level(s)
    e = np.array([1.0, -2.0])
    want = level(400)[0] * (np.asarray(Z) - sigma * e) / alpha + level(400)[1] * e
    got = renoised(SCHEDULE, Z, np.float32(e), np.int32(s), np.int32(400))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_times_rise_to_their_end():
    of_sdi = jax.jit(sdi_times, static_argnums=1)
    of_ism = jax.jit(ism_times, static_argnums=(1, 2))
    assert of_sdi(980, 4).tolist() == [-1, 245, 490, 735, 980]
    assert of_sdi(3, 4).tolist() == [-1, 0, 1, 2, 3]
    assert of_ism(900, 5, 200).tolist() == [0, 100, 300, 500, 700, 900]
    assert of_ism(250, 2, 200).tolist() == [0, 50, 250]
    assert of_ism(900, 0, 200).tolist() == [900]


@pytest.mark.parametrize(("t", "steps"), [(900, 5), (300, 2), (40, 2), (600, 0)])
def test_ism_against_the_same_chain_in_float64(t, steps):
    u = max(t - 80, 0)
    times = [max(u - 200 * (steps - i), 0) for i in range(steps + 1)]
    alpha, sigma = level(times[0])
    z_s = alpha * np.asarray(Z, np.float64) + sigma * EPS
    for s, s_next in pairwise(times):
        z_s = stepped(z_s, predicted(z_s, s, "uncond"), s, s_next)
    start = predicted(z_s, u, "uncond")
    z_t = stepped(z_s, start, u, t)
    e_y, e_0 = (predicted(z_t, t, branch) for branch in ("cond", "uncond"))
    wanted = e_0 + 7.5 * (e_y - e_0) - start
    np.testing.assert_allclose(
        estimate("ism", t, steps=steps), wanted, rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_sdi_against_the_same_chain_in_float64(eta):
    t, steps = 700, 4
    times, z = [-1, 175, 350, 525, 700], np.asarray(Z, np.float64)
    z_s = z
    for s, s_next in pairwise(times):
        e_y, e_0 = (predicted(z_s, s, branch) for branch in ("cond", "uncond"))
        z_s = stepped(z_s, e_0 - 7.5 * (e_y - e_0), s, s_next)
    alpha, sigma = level(t)
    eps = np.sqrt(1 - eta**2) * (z_s - alpha * z) / sigma + eta * EPS
    z_t = alpha * z + sigma * eps
    e_y, e_0 = (predicted(z_t, t, branch) for branch in ("cond", "uncond"))
    wanted = e_0 + 7.5 * (e_y - e_0) - eps
    np.testing.assert_allclose(
        estimate("sdi", t, steps=steps, eta=eta), wanted, rtol=2e-3, atol=5e-3
    )


def test_sdi_of_nothing_but_fresh_noise_is_sds():
    np.testing.assert_allclose(
        estimate("sdi", 300, eta=1.0, steps=2),
        estimate("sds", 300, guidance_scale=7.5),
        rtol=1e-4,
        atol=1e-5,
    )


def test_ism_is_blind_on_a_point_mass_and_descends_on_a_wide_mode():
    """Where one point is all that is possible DDIM runs straight, e_0(z_t) = e_0(z_u),
    and nothing is left but the prompt's s h (here 0); SDS is drawn to it all the same.
    """
    mean = np.float32([1.0, -0.5])
    makers = {"ism": ESTIMATORS["ism"], "sds": ESTIMATORS["sds"]}
    estimators = {
        n: make(SCHEDULE, guidance_scale=1.0, weighting="one")
        for n, make in makers.items()
    }

    @jax.jit
    def means(variance):
        def noise(z_t, t, view=None, branches=("cond", "uncond")):
            alpha, sigma = SCHEDULE.alphas[t], SCHEDULE.sigmas[t]
            e = gaussian_noise(z_t, alpha, sigma, mean, variance)
            return NoisePrediction(**dict.fromkeys(branches, e))

        prior = linear_prior()._replace(noise=noise)
        keys = jax.random.split(KEY, 64)
        return {
            name: jax.vmap(lambda k, e=e: e.estimate(prior, k, (), Z, 500, None).grad)(
                keys
            ).mean(0)
            for name, e in estimators.items()
        }

    point, wide = (jax.device_get(means(np.float32(v))) for v in (0.0, 0.3))
    away = Z - mean
    assert float(np.abs(point["ism"]).max()) < 1e-3
    for found in (point["sds"], wide["sds"], wide["ism"]):
        size = np.linalg.norm(found)
        assert size > 5e-3  # five times what a point may leave
        assert float(found @ away / (size * np.linalg.norm(away))) > 0.9
