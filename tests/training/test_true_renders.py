"""The exact prior of a run in 3D: true renders, told the camera, by config keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera

from configs.ssd import VARIANTS
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.training.build.true_renders import true_renders
from sdsjax.training.config import ConfigError
from sdsjax.types import View

SIDE, T = 16, 500
WHITE = (1.0, 1.0, 1.0)


def small(**keys):
    """The config of `ssd:exact` on pictures of 16x16 instead of latents."""
    config = VARIANTS["exact"]()
    config.prompt, config.resolution = "a red house", SIDE
    config.prior.update(captions=("a blue duck",), views=2, elevations=(15.0,))
    config.prior.vae_folder = ""
    with config.unlocked():
        config.update_from_flattened_dict(keys)
    return config


def seen_from(*orbit, side=SIDE):
    """The view of a camera on an orbit (azimuth, elevation, distance)."""
    return View(orbit_camera(*orbit, fov=40.0, width=side, height=side), None)


def predicting(source, branch="cond"):
    """Makes (z_t, view) -> what a branch takes for the clean picture, jitted."""

    @jax.jit
    def predicted(noised, view):
        prior = source.bind(source.params)
        alpha, sigma = prior.schedule.alphas[T], prior.schedule.sigmas[T]
        e = getattr(prior.noise(noised, jnp.int32(T), view, (branch,)), branch)
        total = alpha**2 * 0.0025 + sigma**2
        return (noised - total / sigma * e) / alpha

    return predicted


@pytest.fixture(scope="module")
def exact():
    """What the exact prior of the step's own camera takes for the clean picture."""
    return predicting(true_renders(small()))


def truth(text, orbit):
    """A caption's true picture from an orbit, in [-1, 1], as the sheet has it."""
    spec = parse_caption(text)[0]
    return 2.0 * render_specs([spec], [orbit], size=SIDE, background=WHITE)[0] - 1.0


@pytest.mark.slow
def test_no_spread_is_the_true_picture_of_any_camera(exact):
    noised = jax.random.normal(jax.random.key(0), (SIDE, SIDE, 3))
    for orbit in ((37.0, 8.0, 2.95), (-120.0, 40.0, 3.3)):
        got = exact(noised, seen_from(*orbit))
        np.testing.assert_allclose(got, truth("a red house", orbit), atol=2e-4)


def test_a_step_of_other_pixels_sees_the_same_picture(exact):
    orbit = (37.0, 8.0, 2.95)
    noised = np.zeros((SIDE, SIDE, 3), np.float32)
    a, b = (exact(noised, seen_from(*orbit, side=s)) for s in (SIDE, 40))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_mapped_cameras_see_what_each_sees_alone(exact):
    views = [seen_from(a, 10.0, 3.1) for a in (0.0, 90.0, 200.0)]
    noised = np.zeros((SIDE, SIDE, 3), np.float32)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(views))
    each = np.stack([exact(noised, view) for view in views])
    mapped = jax.vmap(exact, in_axes=(None, 0))(noised, stacked)
    np.testing.assert_allclose(mapped, each, atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 0.05


def test_a_spread_weighs_the_renders_by_their_angle():
    given = {"prior.view_spread": 20.0, "prior.views": 8}
    source = true_renders(small(**given))
    pictures = np.asarray(source.params.images)
    assert pictures.shape == (16, SIDE, SIDE, 3)
    azimuths, orbit = 45.0 * np.arange(8), (30.0, 15.0, 3.1)
    noised = np.zeros((SIDE, SIDE, 3), np.float32)
    # both on one circle of latitude: the cosine of the angle between the directions
    up, flat = np.sin(np.deg2rad(15.0)) ** 2, np.cos(np.deg2rad(15.0)) ** 2
    cosine = up + flat * np.cos(np.deg2rad(azimuths - 30.0))
    prior = source.bind(source.params)
    alpha, sigma = (
        np.asarray(a)[T] for a in (prior.schedule.alphas, prior.schedule.sigmas)
    )
    total = alpha**2 * 0.0025 + sigma**2
    logits = (cosine - 1.0) / np.deg2rad(20.0) ** 2
    logits -= ((noised - alpha * pictures[:8]) ** 2).sum((1, 2, 3)) / (2.0 * total)
    weights = np.exp(logits - logits.max())
    want = np.tensordot(weights / weights.sum(), pictures[:8], axes=1)
    np.testing.assert_allclose(
        predicting(source)(noised, seen_from(*orbit)), want, atol=2e-4
    )


def test_the_unconditional_branch_knows_all_captions_and_no_camera():
    blind, noised = (
        predicting(true_renders(small()), "uncond"),
        np.zeros((SIDE,) * 2 + (3,), np.float32),
    )
    a, b = (blind(noised, seen_from(azimuth, 0.0, 3.1)) for azimuth in (0.0, 90.0))
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_latents_are_those_of_the_named_vae():
    config = small(**{"prior.vae_folder": "toybox-sd", "resolution": 64})
    source = true_renders(config)
    assert source.params.images.shape == (4, 16, 16, 4)
    prior = source.bind(source.params)
    orbit = (0.0, 15.0, 3.1)
    x = (
        2.0
        * render_specs([parse_caption("a red house")[0]], [orbit], background=WHITE)[0]
        - 1.0
    )
    z = np.asarray(prior.encode(jnp.asarray(x)))
    np.testing.assert_allclose(z, source.params.images[0], atol=1e-3)
    got = predicting(source)(jnp.zeros_like(z), seen_from(*orbit, side=64))
    np.testing.assert_allclose(got, z, atol=1e-3)
    assert float(jnp.abs(prior.decode(jnp.asarray(z)) - x).mean()) < 0.05


def test_a_background_that_changes_is_refused():
    with pytest.raises(ConfigError, match="background=white"):
        true_renders(small(background="random"))
    config = small(background="random")
    with config.unlocked():
        config.prior.view_spread = None
    assert true_renders(config).image_shape == (SIDE, SIDE, 3)


def test_a_fixed_background_is_that_of_the_renders():
    images = true_renders(small(background="0.2,0.4,0.6")).params.images
    images = np.asarray(images)
    np.testing.assert_allclose(images[0, 0, 0], [-0.6, -0.2, 0.2], atol=1e-6)
