"""What the companions see: blur, fade and noise against their closed forms."""

import jax
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.toybox.training import degrade

KEY = jax.random.key(0)
blur, early_render = jax.jit(degrade.blur), jax.jit(degrade.early_render)
noised = jax.jit(degrade.noised)
low_strata = jax.jit(degrade.low_strata, static_argnums=(1, 2))


def pictures(count=3, size=16):
    draw = np.random.default_rng(0).uniform
    return draw(-1, 1, (count, size, size, 3)).astype(np.float32)


def test_blur_keeps_means_and_spreads_a_point_by_its_deviation():
    x = pictures()
    np.testing.assert_allclose(blur(x, np.zeros(3, "f4")), x, atol=1e-6)
    flat = np.ones((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(blur(flat, np.float32([1.0, 9.0])), 1, atol=1e-6)
    point = np.zeros((2, 41, 41, 1), np.float32)
    point[:, 20, 20] = 1
    spread = np.asarray(blur(point, np.float32([1.5, 3.0])))[..., 0]
    along = (np.arange(41) - 20.0) ** 2
    for axis in (1, 2):
        variance = (spread.sum(3 - axis) * along).sum(-1)
        np.testing.assert_allclose(variance, [2.25, 9.0], rtol=1e-4)


def test_an_early_render_without_strength_is_the_picture():
    x, background = pictures(), np.zeros((3, 3), np.float32)
    same = early_render(KEY, x, background, 0.0)
    np.testing.assert_allclose(same, x, atol=1e-6)
    changed = np.asarray(early_render(KEY, x, background))
    assert (np.abs(changed - x).mean((1, 2, 3)) > 1e-3).all()


def test_a_faded_flat_picture_goes_to_its_background():
    """No blur or fade moves what is the background's colour already: only blotches of
    mean square level^2 at most are left."""
    background = np.float32([[0.2, 0.5, 0.9]] * 64)
    x = np.broadcast_to(2 * background[:, None, None] - 1, (64, 16, 16, 3))
    rough = np.asarray(early_render(KEY, x, background)) - x
    level = np.sqrt((rough**2).mean((1, 2, 3)))
    assert level.max() <= degrade.BLOTCHES + 1e-5
    assert level.max() > 0.5 * degrade.BLOTCHES


def test_noise_has_the_schedules_mean_and_variance():
    schedule = NoiseSchedule.scaled_linear()
    x, t = np.full((4, 64, 64, 3), 0.5, np.float32), np.array([0, 300, 600, 999])
    seen = np.asarray(noised(KEY, x, t, schedule))
    alpha, sigma = np.asarray(schedule.alphas)[t], np.asarray(schedule.sigmas)[t]
    np.testing.assert_allclose(seen.mean((1, 2, 3)), 0.5 * alpha, atol=0.03)
    np.testing.assert_allclose(seen.std((1, 2, 3)), sigma, rtol=0.03)


def test_strata_hold_one_time_each_the_low_ones_more():
    t = np.asarray(low_strata(KEY, 10, 1000))
    np.testing.assert_array_equal(10 * np.sqrt(t / 1000) // 1, np.arange(10))
    assert np.sum(t < 250) == 5


def test_the_way_through_latents_scales_and_noises_them():
    """With a VAE that only halves, D(z_t) is x_t of the latent: scaling cancels."""

    def vae(variables, x, method):
        assert set(variables["params"]) == {"w"}
        return (0.5 * x, None) if method == "encode" else 2.0 * x

    schedule = NoiseSchedule.scaled_linear()
    params = {"vae": {"w": 0}, "scaling_factor": 4.0}
    x, t = pictures(), np.array([0, 400, 900])
    through = jax.jit(degrade.through_latents, static_argnums=4)
    seen = through(KEY, x, t, schedule, vae, params)
    want = np.asarray(noised(KEY, 2.0 * x, t, schedule))  # z = 4 * x / 2
    np.testing.assert_allclose(seen, 0.5 * want, rtol=1e-5, atol=1e-6)
