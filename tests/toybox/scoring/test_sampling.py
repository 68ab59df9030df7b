"""DDIM on a prior that knows one picture a caption: it ends there, however guided."""

import jax
import numpy as np
import pytest
from known_networks import SIDE, networks, noise_of_point

from sdsjax.toybox.scoring import sample, sample_views
from sdsjax.toybox.training.view_sets import view_conditions


def test_times_go_down_to_zero_and_end():
    np.testing.assert_array_equal(sample.ddim_times(4), [999, 666, 333, 0, -1])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_samples_end_at_their_caption_s_picture(prediction_type, monkeypatch):
    """Between 0 for "" and m, guidance by 3 ends at 3 m; beyond 1 it is clipped."""
    monkeypatch.setattr(sample, "BATCH", 2)  # three captions: two calls, one padded

    def unet(z, t, states):
        point = 0.05 * states[:, :1, :1, None]
        return noise_of_point(z, t, point, prediction_type)

    asked = {"guidance_scale": 3.0, "steps": 5}
    prior, key = networks(unet, prediction_type), jax.random.key(0)
    drawn = sample.sample(prior, ["a", "aaaa", "a" * 9], key, **asked)
    want = np.array([0.15, 0.6, 1.0])[:, None, None, None]
    np.testing.assert_allclose(drawn, want + np.zeros((3, SIDE, SIDE, 3)), atol=1e-4)


ORBITS = np.array(
    [[[0, 10, 3], [90, 10, 3], [180, 10, 3], [-90, 10, 3]], [[30, 0, 3]] * 4], float
)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_each_view_is_of_its_own_camera_and_both_branches_are_told(
    prediction_type, monkeypatch
):
    """The known picture is m + a camera's number: guidance leaves the latter alone."""
    monkeypatch.setattr(sample_views, "CHUNK", 1)

    def of_camera(camera, rays):
        return (0.1 * camera[..., 3] + 0.05 * rays[..., 0, 0, 1])[..., None, None, None]

    def unet(z, t, states, camera, rays):
        point = 0.05 * states[:, 0, 0].reshape(-1, 1, 1, 1, 1) + of_camera(camera, rays)
        return noise_of_point(z, t, point, prediction_type)

    asked = {"guidance_scale": 2.0, "steps": 4}
    prior, key = networks(unet, prediction_type), jax.random.key(0)
    drawn = sample_views.sample_views(prior, ["aa", "aaa"], ORBITS, key, **asked)
    conditions = jax.jit(view_conditions, static_argnums=2)
    given = conditions(ORBITS, np.ones(2, bool), SIDE)
    own = of_camera(*jax.device_get(given))
    assert np.ptp(own[0]) > 0.05  # the cameras are told apart
    want = np.array([0.2, 0.3]).reshape(2, 1, 1, 1, 1) + own
    np.testing.assert_allclose(drawn, want + np.zeros((2, 4, SIDE, SIDE, 3)), atol=1e-4)


def test_a_network_without_rays_is_given_none(monkeypatch):
    seen = []

    def unet(z, t, states, camera, rays):
        seen.append(rays)
        return noise_of_point(z, t, 0.5)

    prior = networks(unet)
    monkeypatch.setattr(type(prior.unet.config), "rays", False)
    drawn = sample_views.sample_views(
        prior, ["a"], ORBITS[:1], jax.random.key(0), guidance_scale=2.0, steps=2
    )
    assert set(seen) == {None}
    np.testing.assert_allclose(drawn, 0.5, atol=1e-4)


def test_drawn_sets_look_from_four_sides_at_one_height(monkeypatch):
    monkeypatch.setattr(sample_views, "draw_orbit", jax.jit(sample_views.draw_orbit))
    orbits = sample_views.draw_orbits(jax.random.key(1), 3)
    assert orbits.shape == (3, 4, 3)
    turned = (orbits[..., 0] - orbits[:, :1, 0]) % 360
    np.testing.assert_allclose(turned, [[0, 90, 180, 270]] * 3, atol=1e-3)
    np.testing.assert_array_equal(orbits[..., 1:], np.repeat(orbits[:, :1, 1:], 4, 1))
    assert len(np.unique(orbits[:, 0, 0])) == 3
