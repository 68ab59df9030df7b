"""DDS and PDS on exact scores: their moments as the test writes them, and what is 0."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_prior import MEANS, SCHEDULE, gaussian_noise, level, linear_prior, slope

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.editing.pds import posterior_weights
from sdsjax.types import NoisePrediction, Source

Z, SOURCE = np.float32([0.6, -0.2]), np.float32([-0.3, 0.5])
OF_SOURCE = {"cond": ((-0.4, 0.9), 0.6), "uncond": ((0.2, 0.3), 0.8)}
DRAWS = 4000


def editing_prior(source=None, latent=SOURCE):
    """The source prompt: one Gaussian (mean, variance) a branch."""
    source = source or OF_SOURCE

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        alpha, sigma = SCHEDULE.alphas[t], SCHEDULE.sigmas[t]
        return NoisePrediction(
            **{
                b: gaussian_noise(
                    z_t, alpha, sigma, jnp.asarray(source[b][0]), source[b][1]
                )
                for b in branches
            }
        )

    return linear_prior()._replace(source=Source(noise, lambda view: latent))


@cache
def drawing(name, count=DRAWS, prior=editing_prior, **hyper):
    """(t, scale) -> `count` unweighted gradients at Z, of one program for all."""

    @jax.jit
    def of(t, scale):
        estimator, p = (
            ESTIMATORS[name](SCHEDULE, guidance_scale=scale, **hyper),
            prior(),
        )

        def one(key):
            return estimator.estimate(p, key, (), Z, t, None).grad

        return jax.vmap(one)(jax.random.split(jax.random.key(0), count))

    return lambda t, scale: np.asarray(of(np.int32(t), np.float32(scale)))


def moments(t, scale):
    """E and the deviation of e_s(z_t; y) - e_s(z'_t; y'), by hand: each e is k eps + k
    alpha (z - m) / sigma with k = sigma^2 / (alpha^2 tau^2 + sigma^2)."""
    alpha, sigma = level(t)

    def affine(k, mean, z):
        return k, k * alpha * (np.asarray(z) - np.asarray(mean)) / sigma

    def guided(cond, uncond):
        return [u + scale * (c - u) for c, u in zip(cond, uncond)]

    target = guided(
        affine(slope("cond", t), MEANS["cond"], Z),
        affine(slope("uncond", t), MEANS["uncond"], Z),
    )
    k = {b: sigma**2 / (alpha**2 * v + sigma**2) for b, (_, v) in OF_SOURCE.items()}
    source = guided(
        *(affine(k[b], OF_SOURCE[b][0], SOURCE) for b in ("cond", "uncond"))
    )
    return target[1] - source[1], abs(target[0] - source[0])


@pytest.mark.parametrize(("t", "scale"), [(200, 1.0), (700, 7.5)])
def test_the_moments_of_dds(t, scale):
    found = drawing("dds", weighting="one")(t, scale)
    mean, deviation = moments(t, scale)
    error = deviation / np.sqrt(DRAWS)
    np.testing.assert_allclose(found.mean(0), mean, atol=5 * error + 1e-5)
    np.testing.assert_allclose(found.std(0), deviation, rtol=0.06)


def coefficients(t, stride):
    """psi and chi from the posterior's mean c0 zhat + c1 z_t and its deviation v, by
    conditioning Gaussians: z_s given z and z_t, where one step keeps a = alpha_t /
    alpha_(t-1) of z_s and adds noise. At two steps the published program has the
    variance and the share of one."""
    alphas, sigmas = (np.asarray(a, np.float64) for a in SCHEDULE)
    kept = alphas[t] / alphas[t - 1]
    added = sigmas[t] ** 2 - kept**2 * sigmas[t - 1] ** 2
    alpha, alpha_s, sigma_s = alphas[t], alphas[t - stride], sigmas[t - stride]
    # var(z_t | z), and the gain of z_t in E[z_s | z, z_t]
    total, gain = sigmas[t] ** 2, kept * sigma_s**2 / sigmas[t] ** 2
    c0 = alpha_s * added / total
    v = np.sqrt(added * sigma_s**2 / total)

    def latent(z, e):  # without the two noises, which the branches share
        zhat = z - np.sqrt(total) / alpha * e
        return (alpha_s * z - c0 * zhat - gain * alpha * z) / v

    return latent(1.0, 0.0), latent(0.0, 1.0)


def test_the_published_coefficients_of_pds():
    """alphas_cumprod and betas as its program has them, variance preserving."""
    schedule, t, stride = NoiseSchedule.scaled_linear(), 700, 2
    bars = np.asarray(schedule.alphas, np.float64) ** 2
    bar, bar_s, beta = bars[t], bars[t - stride], 1 - bars[t] / bars[t - 1]
    c0 = np.sqrt(bar_s) * beta / (1 - bar)
    c1 = np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar)
    v = np.sqrt((1 - bar_s) / (1 - bar) * beta)
    psi = (np.sqrt(bar_s) - c0 - c1 * np.sqrt(bar)) / v
    chi = c0 * np.sqrt(1 - bar) / np.sqrt(bar) / v
    found = [np.asarray(weight)[t] for weight in posterior_weights(schedule, stride)]
    np.testing.assert_allclose(found, (psi, chi), rtol=1e-3)


@pytest.mark.parametrize("stride", [1, 2, 50])
def test_pds_pulls_towards_the_source_at_every_time(stride):
    """Never away, and its weights are finite, at the ends too (t = 0 and T - 1)."""
    psi, chi = map(np.asarray, posterior_weights(SCHEDULE, stride))
    assert (psi >= -1e-3).all()
    assert (chi > 0).all()
    assert np.isfinite(psi + chi).all()


@pytest.mark.parametrize(("t", "stride"), [(200, 2), (700, 2), (500, 20)])
def test_the_mean_of_pds(t, stride):
    psi, chi = coefficients(t, stride)
    mean, deviation = moments(t, 7.5)
    assert psi > 0.01 * chi
    found = drawing("pds", stride=stride)(t, 7.5)
    expected = psi * np.asarray(Z - SOURCE) + chi * mean
    error = abs(chi) * deviation / np.sqrt(DRAWS)
    np.testing.assert_allclose(found.mean(0), expected, atol=5 * error, rtol=2e-3)


def test_pds_of_one_step_is_dds_weighted():
    """gamma + delta alpha_t = alpha_s: nothing pulls towards the source."""
    t = 400
    pds = drawing("pds", 4, weighting="one", stride=1)(t, 3.0)
    dds = drawing("dds", 4, weighting="one")(t, 3.0)
    np.testing.assert_allclose(pds, coefficients(t, 1)[1] * dds, rtol=2e-3, atol=2e-3)


def of_one_image():
    """The same prompt and the same image before and after."""
    target = linear_prior()
    return target._replace(source=Source(target.noise, lambda view: Z))


@pytest.mark.parametrize("name", ["dds", "pds"])
@pytest.mark.parametrize("t", [0, 1, 300, 999])
def test_nothing_moves_where_source_and_target_are_one(name, t):
    """The same prompt and the same image: exactly 0, whatever the noise."""
    np.testing.assert_array_equal(drawing(name, 8, of_one_image)(t, 7.5), 0.0)


def test_a_group_of_views_is_one_sample():
    """z [g ...] with one t: the latent of the source has the same leading axis."""
    prior = editing_prior(latent=np.stack([SOURCE, SOURCE + 1]))
    estimator, z = ESTIMATORS["dds"](SCHEDULE), np.stack([Z, Z])

    def one(key):
        return estimator.estimate(prior, key, (), z, jnp.int32(300), None).grad

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 2))
    assert found.shape == (2, 2, 2)
