"""Cameras and view words: the conventions every room relies on."""

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax import cameras
from sdsjax.diffusion import prompts


def project(camera, point):
    local = camera.world_to_camera @ jnp.append(jnp.asarray(point), 1.0)
    return camera.focal * local[:2] / local[2] + camera.principal, local[2]


def test_front_view_shows_plus_x_on_the_right_and_up_is_up():
    camera = cameras.orbit_camera(0.0, 0.0, 3.0, width=64, height=48)
    centre, depth = project(camera, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(centre, [32, 24], atol=1e-4)
    np.testing.assert_allclose(depth, 3.0, rtol=1e-6)
    assert project(camera, [0.5, 0.0, 0.0])[0][0] > 32
    assert project(camera, [0.0, 0.5, 0.0])[0][1] < 24
    assert project(camera, [0.0, 0.0, 0.5])[1] < 3


def test_left_side_view_has_the_front_on_the_picture_left():
    camera = cameras.orbit_camera(90.0, 0.0, 3.0)
    np.testing.assert_allclose(cameras.camera_position(camera), [3, 0, 0], atol=1e-5)
    assert project(camera, [0.0, 0.0, 0.5])[0][0] < 32


def test_rotation_is_proper_everywhere_even_straight_down():
    for azimuth, elevation in [(10, 20), (180, -10), (0, 90), (77, 89.999)]:
        pose = cameras.orbit_camera(azimuth, elevation).world_to_camera[:3, :3]
        np.testing.assert_allclose(pose @ pose.T, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(pose), 1, atol=1e-5)


def test_angles_invert_the_orbit():
    for azimuth, elevation in [(0, 0), (-130, 44), (90, -10), (179, 80)]:
        camera = cameras.orbit_camera(azimuth, elevation, 2.5)
        got = cameras.camera_angles(camera)
        np.testing.assert_allclose(got, [azimuth, elevation], atol=1e-3)


def test_rays_pass_through_the_pixels_they_belong_to():
    camera = cameras.orbit_camera(33.0, 21.0, 3.1, width=8, height=6)
    origins, directions = cameras.pixel_rays(camera)
    pixel, _ = project(camera, origins[4, 2] + 2.0 * directions[4, 2])
    np.testing.assert_allclose(pixel, [2.5, 4.5], atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=-1), 1, rtol=1e-5)


def test_random_views_stay_in_range_and_are_stratified():
    orbit = cameras.OrbitRange(elevation=(-10.0, 45.0), overhead_fraction=0.0)
    draw = lambda key: cameras.random_orbits(key, 8, orbit, width=8, height=8)  # noqa: E731
    for seed in range(5):
        batch = draw(jax.random.key(seed))
        azimuth, elevation = jax.vmap(cameras.camera_angles)(batch)
        strata = np.floor((np.asarray(azimuth) + 180) / 45).astype(int)
        np.testing.assert_array_equal(strata, np.arange(8))
        assert elevation.min() >= -10.01
        assert elevation.max() <= 45.01


def test_overhead_fraction():
    orbit = cameras.OrbitRange(overhead_fraction=0.25)
    batch = cameras.random_orbits(jax.random.key(0), 2000, orbit, width=8, height=8)
    _, elevation = jax.vmap(cameras.camera_angles)(batch)
    np.testing.assert_allclose(np.mean(np.asarray(elevation) > 59.9), 0.25, atol=0.03)


def test_view_words_by_angle():
    cases = {
        (0, 0): prompts.FRONT, (44, 59): prompts.FRONT, (-44, 0): prompts.FRONT,
        (46, 0): prompts.LEFT, (90, 0): prompts.LEFT, (-90, 0): prompts.RIGHT,
        (270, 0): prompts.RIGHT, (136, 0): prompts.BACK, (-180, 0): prompts.BACK,
        (0, 61): prompts.OVERHEAD, (180, 85): prompts.OVERHEAD,
    }  # fmt: skip
    for (azimuth, elevation), index in cases.items():
        assert int(prompts.view_index(azimuth, elevation)) == index, (
            azimuth,
            elevation,
        )


def test_view_prompts():
    table = prompts.view_prompts("a red cat")
    assert table[prompts.LEFT] == "a red cat, left side view"
    assert table[prompts.ANY] == "a red cat"
    sided = prompts.view_prompts("a red cat", prompts.ONE_SIDED)
    assert sided[prompts.LEFT] == sided[prompts.RIGHT] == "a red cat, side view"
