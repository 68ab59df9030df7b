"""The exact prior in 3D against brute force in float64, and its two limits."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera

from sdsjax.diffusion import NoiseSchedule
from sdsjax.priors import empirical
from sdsjax.types import View

SCHEDULE = NoiseSchedule.scaled_linear()
AZIMUTHS = np.arange(0, 360, 45.0)
COUNT = 2 * len(AZIMUTHS)  # two captions, the prompt's first
IMAGES = np.random.default_rng(0).uniform(-1, 1, (COUNT, 3, 3, 2)).astype(np.float32)
TURNS = np.deg2rad(np.tile(AZIMUTHS, 2))
DIRECTIONS = np.stack([np.sin(TURNS), 0 * TURNS, np.cos(TURNS)], axis=1)
KEPT = np.arange(COUNT) < len(AZIMUTHS)


def brute_force(z_t, t, weights, variance):
    """-sigma times the gradient of log sum_i w_i N(z_t; alpha x_i, alpha^2 v + s^2)."""
    alpha, sigma = (np.asarray(a, np.float64)[t] for a in SCHEDULE)
    total = alpha**2 * variance + sigma**2
    offsets = np.float64(z_t) - alpha * np.float64(IMAGES)
    logs = np.log(weights) - (offsets**2).sum(axis=(1, 2, 3)) / (2 * total)
    posterior = np.exp(logs - logs.max())
    posterior /= posterior.sum()
    return sigma * np.tensordot(posterior, offsets, axes=1) / total


def weights_at(azimuth, spread):
    """The kernel written out: exp((cos(angle) - 1) / spread^2) for the prompt's."""
    angle = TURNS - np.deg2rad(azimuth)
    with np.errstate(divide="ignore"):
        return np.exp((np.cos(angle) - 1) / np.deg2rad(spread) ** 2) * KEPT


def noise_of(kept=KEPT, **settings):
    """(z_t, t, view, branches) -> the prior's noise, compiled whole for every t."""
    prior = empirical(SCHEDULE, IMAGES, kept, **settings)
    return jax.jit(prior.noise, static_argnames="branches")


@cache
def spread_noise(spread, variance):
    return noise_of(variance=variance, directions=DIRECTIONS, view_spread=spread)


@pytest.mark.parametrize("t", [20, 400, 900])
@pytest.mark.parametrize("spread", [20.0, 45.0])
@pytest.mark.parametrize("variance", [0.0, 0.05])
def test_equals_brute_force(t, spread, variance):
    z_t = np.random.default_rng(t).normal(size=IMAGES.shape[1:]).astype(np.float32)
    view = View(orbit_camera(100.0, 0.0))
    got = spread_noise(spread, variance)(z_t, np.int32(t), view)
    with np.errstate(divide="ignore"):
        cond = brute_force(z_t, t, weights_at(100.0, spread), variance)
        uncond = brute_force(z_t, t, np.ones(COUNT), variance)
    np.testing.assert_allclose(got.cond, cond, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(got.uncond, uncond, rtol=2e-4, atol=2e-4)


def known_noise(noise, picture, view, t=300):
    """The prediction at a z_t made of a picture and a known eps, and that eps."""
    eps = np.random.default_rng(1).normal(size=picture.shape).astype(np.float32)
    alpha, sigma = (np.asarray(a)[t] for a in SCHEDULE)
    z_t = alpha * picture + sigma * eps
    return noise(z_t, np.int32(t), view, branches=("cond",)).cond, eps


def test_without_spread_the_nearest_of_the_prompts_pictures_is_all():
    noise = noise_of(directions=DIRECTIONS)
    for azimuth, nearest in ((50.0, 1), (20.0, 0), (-91.0, 6)):
        view = View(orbit_camera(azimuth, 10.0))
        got, eps = known_noise(noise, IMAGES[nearest], view)
        np.testing.assert_allclose(got, eps, atol=1e-4)
    # the other caption's pictures stand in the same directions and are not taken
    reverse = noise_of(~KEPT, directions=DIRECTIONS)
    got, eps = known_noise(reverse, IMAGES[9], View(orbit_camera(50.0, 10.0)))
    np.testing.assert_allclose(got, eps, atol=1e-4)


def test_a_wide_spread_and_the_null_camera_forget_the_view():
    z_t = np.random.default_rng(3).normal(size=IMAGES.shape[1:]).astype(np.float32)
    t, view = np.int32(700), View(orbit_camera(77.0, 5.0))
    plain = np.asarray(noise_of()(z_t, t, None).cond)
    wide = noise_of(directions=DIRECTIONS, view_spread=1e5)
    np.testing.assert_allclose(wide(z_t, t, view).cond, plain, atol=1e-4)
    narrow = noise_of(directions=DIRECTIONS, view_spread=5.0)
    blank = View(jax.tree.map(np.zeros_like, view.camera))
    for without in (blank, View(None), None):
        got = narrow(z_t, t, without).cond
        np.testing.assert_allclose(got, plain, atol=1e-5)
    assert np.abs(narrow(z_t, t, view).cond - plain).max() > 0.05


def test_a_picture_of_the_very_camera_is_followed():
    def picture_at(camera):
        return jnp.full(IMAGES.shape[1:], camera.world_to_camera[0, 0])

    prior = empirical(SCHEDULE, IMAGES, KEPT, picture_at=picture_at)
    for azimuth in (0.0, 60.0):
        view = View(orbit_camera(azimuth, 0.0))
        got, eps = known_noise(prior.noise, np.asarray(picture_at(view.camera)), view)
        np.testing.assert_allclose(got, eps, atol=1e-4)
    with pytest.raises(ValueError, match="needs a view"):
        prior.noise(jnp.zeros(IMAGES.shape[1:]), jnp.int32(1), None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"directions": DIRECTIONS[:3]}, "directions has shape"),
        ({"variance": -1.0}, "must not be negative"),
        ({"view_spread": -1.0}, "must not be negative"),
        ({"view_spread": 5.0, "picture_at": lambda camera: camera}, "one of them"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        empirical(SCHEDULE, IMAGES, KEPT, **wrong)
