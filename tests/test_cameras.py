"""Cameras and view words: the conventions every room relies on."""

import dataclasses

import jax
import numpy as np
import pytest

from sdsjax import cameras
from sdsjax.diffusion import prompts

orbit_camera = jax.jit(cameras.orbit_camera, static_argnames=("width", "height"))
camera_angles = jax.jit(cameras.camera_angles)
camera_position = jax.jit(cameras.camera_position)
camera_numbers, plucker_rays = map(
    jax.jit, (cameras.camera_numbers, cameras.plucker_rays)
)
angles_of_all = jax.jit(jax.vmap(cameras.camera_angles))
random_orbits = jax.jit(
    cameras.random_orbits, static_argnames=("count", "orbit", "width", "height")
)


def project(camera, point):
    camera = jax.device_get(camera)
    local = camera.world_to_camera @ np.append(np.float32(point), np.float32(1))
    return camera.focal * local[:2] / local[2] + camera.principal, local[2]


def test_front_view_shows_plus_x_on_the_right_and_up_is_up():
    camera = orbit_camera(0.0, 0.0, 3.0, width=64, height=48)
    centre, depth = project(camera, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(centre, [32, 24], atol=1e-4)
    np.testing.assert_allclose(depth, 3.0, rtol=1e-6)
    # 40 degrees from the lower to the upper rim
    top = [0.0, 3.0 * np.tan(np.deg2rad(20.0)), 0.0]
    np.testing.assert_allclose(project(camera, top)[0], [32, 0], atol=1e-4)
    assert project(camera, [0.5, 0.0, 0.0])[0][0] > 32
    assert project(camera, [0.0, 0.5, 0.0])[0][1] < 24
    assert project(camera, [0.0, 0.0, 0.5])[1] < 3


def test_left_side_view_has_the_front_on_the_picture_left():
    camera = orbit_camera(90.0, 0.0, 3.0)
    np.testing.assert_allclose(camera_position(camera), [3, 0, 0], atol=1e-5)
    assert project(camera, [0.0, 0.0, 0.5])[0][0] < 32


def test_rotation_is_proper_everywhere_even_straight_down():
    for azimuth, elevation in [(10, 20), (180, -10), (0, 90), (77, 89.999)]:
        pose = np.asarray(orbit_camera(azimuth, elevation).world_to_camera)[:3, :3]
        np.testing.assert_allclose(pose @ pose.T, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(pose), 1, atol=1e-5)


def test_angles_invert_the_orbit():
    for azimuth, elevation in [(0, 0), (-130, 44), (90, -10), (179, 80)]:
        camera = orbit_camera(azimuth, elevation, 2.5)
        got = camera_angles(camera)
        np.testing.assert_allclose(got, [azimuth, elevation], atol=1e-3)


def test_rays_pass_through_the_pixels_they_belong_to():
    camera = orbit_camera(33.0, 21.0, 3.1, width=8, height=6)
    origins, directions = jax.device_get(jax.jit(cameras.pixel_rays)(camera))
    pixel, _ = project(camera, origins[4, 2] + 2.0 * directions[4, 2])
    np.testing.assert_allclose(pixel, [2.5, 4.5], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, rtol=1e-5)


def test_random_views_stay_in_range_and_are_stratified():
    orbit = cameras.OrbitRange(elevation=(-10.0, 45.0), overhead_fraction=0.0)
    draw = lambda key: random_orbits(key, 8, orbit, width=8, height=8)  # noqa: E731
    for seed in range(5):
        batch = draw(jax.random.key(seed))
        azimuth, elevation = jax.device_get(angles_of_all(batch))
        strata = np.floor((azimuth + 180) / 45).astype(int)
        np.testing.assert_array_equal(strata, np.arange(8))
        assert elevation.min() >= -10.01
        assert elevation.max() <= 45.01


def test_overhead_fraction():
    orbit = cameras.OrbitRange(overhead_fraction=0.25)
    batch = random_orbits(jax.random.key(0), 2000, orbit, width=8, height=8)
    _, elevation = jax.device_get(angles_of_all(batch))
    np.testing.assert_allclose(np.mean(elevation > 59.9), 0.25, atol=0.03)
    assert elevation.max() < 85.01


def test_relative_distances_fit_the_unit_ball_at_every_field_of_view():
    orbit = cameras.OrbitRange(
        distance=(1.0, 1.0), fov=(15.0, 60.0), relative_distance=True
    )
    batch = random_orbits(jax.random.key(0), 16, orbit, width=64, height=64)
    eyes = jax.jit(jax.vmap(cameras.camera_position))(batch)
    half = 32 / np.asarray(batch.focal)[:, 1]  # tan of half the field of view
    np.testing.assert_allclose(np.linalg.norm(eyes, axis=1) * half, 1.0, rtol=1e-5)
    assert np.ptp(half) > 0.2
    # a field of 90 degrees: the picture's edge is as far from the middle as the eye
    fitted = jax.jit(cameras.fitted_distance)(0.8, 90.0)
    np.testing.assert_allclose(fitted, 0.8, rtol=1e-6)


def test_view_words_by_angle():
    cases = {
        (0, 0): prompts.FRONT, (44, 59): prompts.FRONT, (-44, 0): prompts.FRONT,
        (46, 0): prompts.LEFT, (90, 0): prompts.LEFT, (-90, 0): prompts.RIGHT,
        (270, 0): prompts.RIGHT, (136, 0): prompts.BACK, (-180, 0): prompts.BACK,
        (0, 61): prompts.OVERHEAD, (180, 85): prompts.OVERHEAD,
        # the front's and the cone's rims are the front's, the back's is a side's
        (45, 0): prompts.FRONT, (-45, 60): prompts.FRONT, (180, 60): prompts.BACK,
        (135, 0): prompts.LEFT, (-135, 0): prompts.RIGHT,
    }  # fmt: skip
    found = jax.jit(prompts.view_index)(*np.transpose(np.float32(list(cases))))
    np.testing.assert_array_equal(found, list(cases.values()))


def test_view_prompts():
    table = prompts.view_prompts("a red cat")
    assert table[prompts.LEFT] == "a red cat, left side view"
    assert table[prompts.ANY] == "a red cat"
    sided = prompts.view_prompts("a red cat", prompts.ONE_SIDED)
    assert sided[prompts.LEFT] == sided[prompts.RIGHT] == "a red cat, side view"


HALF = 0.5**0.5


@pytest.mark.parametrize(
    ("azimuth", "elevation", "rows"),
    [
        (0, 0, [[1, 0, 0, 0], [0, 0, -1, -1], [0, 1, 0, 0]]),
        (90, 0, [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0]]),
        (180, 0, [[-1, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0]]),
        (0, 90, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]),
        (0, 45, [[1, 0, 0, 0], [0, HALF, -HALF, -HALF], [0, HALF, HALF, HALF]]),
    ],
)
def test_camera_numbers_are_blenders_camera_to_world(azimuth, elevation, rows):
    # worked out by hand: the overhead camera is Blender's own at rest, and the front
    # one stands at -y, whence a Blender scene is looked at from its front
    camera = orbit_camera(azimuth, elevation, 2.7)
    expected = np.asarray([*rows, [0, 0, 0, 1]], np.float32).reshape(-1)
    np.testing.assert_allclose(camera_numbers(camera), expected, atol=1e-6)


def test_plucker_rays_hold_direction_and_moment_of_each_pixel():
    camera = orbit_camera(33.0, 21.0, 3.1, width=6, height=4)
    rays = np.asarray(plucker_rays(camera))
    assert rays.shape == (4, 6, 6)
    eye = np.asarray(camera_position(camera))
    for row, column in [(0, 0), (3, 2), (1, 5)]:
        direction, moment = np.split(rays[row, column], 2)
        # any point of the ray gives the same moment
        point = eye + 1.7 * direction
        np.testing.assert_allclose(moment, np.cross(point, direction), atol=1e-5)
        pixel, _ = project(camera, point)
        np.testing.assert_allclose(pixel, [column + 0.5, row + 0.5], atol=1e-3)


def test_the_null_camera_has_no_numbers_and_no_rays():
    camera = orbit_camera(33.0, 21.0, 3.1, width=6, height=4)
    nowhere = np.zeros((4, 4), np.float32)
    null = dataclasses.replace(camera, world_to_camera=nowhere)
    assert not np.asarray(camera_numbers(null)).any()
    np.testing.assert_array_equal(plucker_rays(null), np.zeros((4, 6, 6)))


def test_a_resized_camera_sees_the_same_at_other_pixels():
    camera = orbit_camera(33.0, 21.0, 3.0, width=64, height=48)
    small = cameras.resize_camera(camera, 16, 12)
    assert (small.width, small.height) == (16, 12)
    point = [0.3, -0.2, 0.4]
    pixel, shrunk = project(camera, point)[0], project(small, point)[0]
    np.testing.assert_allclose(shrunk, pixel / 4, rtol=1e-5)
