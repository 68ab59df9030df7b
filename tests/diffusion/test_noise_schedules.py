"""The forward process against closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax import diffusion
from sdsjax.diffusion import NoiseSchedule

SCHEDULES = [
    NoiseSchedule.scaled_linear,
    NoiseSchedule.linear,
    NoiseSchedule.squaredcos_cap_v2,
]


@pytest.mark.parametrize("make", SCHEDULES)
def test_variance_is_preserved_and_noise_grows(make):
    schedule = make()
    np.testing.assert_allclose(schedule.alphas**2 + schedule.sigmas**2, 1, rtol=1e-6)
    assert (np.diff(schedule.sigmas) > 0).all()
    assert schedule.num_steps == 1000
    assert schedule.alphas.dtype == jnp.float32


def test_published_end_points():
    """Stable Diffusion: abar_0 = 1 - .00085; terminal sqrt(abar) = .06826 (its known
    non-zero terminal SNR, arXiv 2305.08891)."""
    schedule = NoiseSchedule.scaled_linear()
    np.testing.assert_allclose(schedule.alphas[0] ** 2, 1 - 0.00085, rtol=1e-6)
    np.testing.assert_allclose(schedule.alphas[-1], 0.068265, rtol=1e-4)


def test_schedules_are_their_published_formulas():
    """DDPM: beta from 1e-4 to .02 in even steps. Improved DDPM (arXiv 2102.09672,
    eq. 17): abar_t = f(t) / f(0), f = cos^2 with s = .008; the last beta, 1, is capped
    at .999."""
    ddpm = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(NoiseSchedule.linear().alphas ** 2, ddpm, rtol=1e-5)
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    abar = f[1:] / f[0]
    abar[-1] = 0.001 * abar[-2]
    cosine = NoiseSchedule.squaredcos_cap_v2().alphas
    np.testing.assert_allclose(cosine**2, abar, rtol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_is_its_published_formula(shift):
    """s = shift u / (1 + (shift - 1) u), u = (t + 1) / 1000 (arXiv 2403.03206, eq. 23;
    the sigmas of FlowMatchEulerDiscreteScheduler): the last holds a little of z."""
    schedule, u = NoiseSchedule.flow_matching(shift=shift), np.arange(1, 1001) / 1000
    s = shift * u / (1 + (shift - 1) * u)
    np.testing.assert_allclose(schedule.sigmas[:-1], s[:-1], rtol=1e-6)
    np.testing.assert_allclose(schedule.alphas[:-1], (1 - s)[:-1], rtol=1e-5)
    np.testing.assert_allclose(schedule.alphas[-1], 1 - s[-2], rtol=0.51)
    assert (np.diff(schedule.sigmas) > 0).all()
    assert (np.diff(schedule.alphas) < 0).all()
    assert 0 < schedule.alphas[-1] < schedule.alphas[-2]
    assert schedule.straight
    assert not any(make().straight for make in SCHEDULES)
    with pytest.raises(ValueError, match="shift = 0 must be positive"):
        NoiseSchedule.flow_matching(shift=0)


EVERY = [*SCHEDULES, NoiseSchedule.flow_matching]


@pytest.mark.parametrize("make", EVERY)
def test_denoising_the_true_noise_returns_z(make):
    schedule, z = make(), jnp.linspace(-1, 1, 12)
    eps = jax.random.normal(jax.random.key(0), z.shape)
    for t in (0, 500, 999):
        z_t = diffusion.add_noise(schedule, z, eps, t)
        # float32's rounding of z_t, over alpha
        tolerance = 1e-6 + 4e-7 / float(schedule.alphas[t])
        np.testing.assert_allclose(
            diffusion.denoised(schedule, z_t, eps, t), z, atol=tolerance
        )


def test_velocity_converts_to_the_noise_it_holds():
    schedule, z = NoiseSchedule.scaled_linear(), jnp.linspace(-1, 1, 12)
    eps, t = jax.random.normal(jax.random.key(0), z.shape), 321
    alpha, sigma = diffusion.alpha_sigma(schedule, t)
    z_t, velocity = alpha * z + sigma * eps, alpha * eps - sigma * z
    np.testing.assert_allclose(
        diffusion.velocity_to_noise(schedule, z_t, velocity, t), eps, atol=1e-5
    )


def test_flow_velocity_converts_to_the_noise_it_holds():
    """v = eps - z, whatever s; an error d of v is (1 - s) d in the noise."""
    schedule, z = NoiseSchedule.flow_matching(), jnp.linspace(-1, 1, 12)
    eps = jax.random.normal(jax.random.key(0), z.shape)
    for t in (0, 321, 999):
        z_t = diffusion.add_noise(schedule, z, eps, t)
        found = diffusion.velocity_to_noise(schedule, z_t, eps - z, t)
        np.testing.assert_allclose(found, eps, atol=1e-6)
        wrong = diffusion.velocity_to_noise(schedule, z_t, eps - z + 0.5, t)
        share = 1 - float(schedule.sigmas[t])
        np.testing.assert_allclose(wrong - eps, 0.5 * share, atol=1e-6)


def test_flow_s_ddim_step_is_euler_s():
    """z_s' = z_s + (s' - s) v."""
    schedule, z_t = NoiseSchedule.flow_matching(), jnp.array([0.3, -0.8])
    v, t, after = jnp.array([1.0, 0.5]), jnp.int32(800), jnp.int32(300)
    e = diffusion.velocity_to_noise(schedule, z_t, v, t)
    s, s_after = schedule.sigmas[t], schedule.sigmas[after]
    np.testing.assert_allclose(
        diffusion.ddim_step(schedule, z_t, e, t, after),
        z_t + (s_after - s) * v,
        rtol=1e-5,
    )


def test_guidance_convention():
    cond, uncond = jnp.array([2.0]), jnp.array([1.0])
    assert diffusion.guide(cond, uncond, 1.0) == cond
    assert diffusion.guide(cond, uncond, 0.0) == uncond
    assert diffusion.guide(cond, uncond, 7.5) == 8.5


@pytest.mark.parametrize("make", [EVERY[0], EVERY[-1]])
def test_ddim_with_the_exact_noise_of_a_point_lands_on_it(make):
    schedule, z = make(), jnp.array([0.3, -0.8])
    z_t = diffusion.add_noise(schedule, z, jnp.array([1.0, -0.5]), 980)
    times = [980, 700, 400, 100, -1]
    for t, after in itertools.pairwise(times):
        alpha, sigma = diffusion.alpha_sigma(schedule, t)
        eps_hat = (z_t - alpha * z) / sigma
        z_t = diffusion.ddim_step(schedule, z_t, eps_hat, t, jnp.int32(after))
        if after >= 0:
            alpha, sigma = diffusion.alpha_sigma(schedule, after)
            way = alpha * z + sigma * jnp.array([1.0, -0.5])
            np.testing.assert_allclose(z_t, way, atol=1e-4)
    np.testing.assert_allclose(z_t, z, atol=1e-4)


@pytest.mark.parametrize("make", [EVERY[0], EVERY[-1]])
def test_weights_by_name(make):
    schedule, t = make(), 250
    a, s = (float(v) for v in diffusion.alpha_sigma(schedule, t))
    wanted = {
        "one": 1.0, "sigma2": s * s, "sigma_alpha": s * a, "alpha_over_sigma": a / s,
        "sigma_over_alpha": s / a, "fantasia": a * s * s,
    }  # fmt: skip
    assert set(wanted) == set(diffusion.WEIGHTINGS)
    for name, value in wanted.items():
        weight = diffusion.weight_function(schedule, name)
        np.testing.assert_allclose(weight(t), value, rtol=1e-5)
