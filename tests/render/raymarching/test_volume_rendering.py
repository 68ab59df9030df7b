"""Volume rendering: closed forms, a loop in float64, finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
from jitted import orbit_camera
from precision import enable_x64

from sdsjax.render.raymarching import volume_rendering as volume
from sdsjax.render.raymarching.volume_rendering import Rays

_weigh = jax.jit(volume.ray_weights)


def weigh(density, edges):
    """As numpy arrays, whose arithmetic compiles nothing."""
    return jax.device_get(_weigh(np.float32(density), np.float32(edges)))


def test_rays_leave_the_camera_through_the_pixels():
    camera = jax.device_get(orbit_camera(30.0, 20.0, 3.0, width=7, height=5))
    rays = jax.device_get(jax.jit(volume.camera_rays)(camera))
    assert rays.depth_per_distance.shape == (5, 7)
    np.testing.assert_allclose(np.linalg.norm(rays.directions, axis=-1), 1, rtol=1e-6)
    # 2.5 along each ray lands at camera z 2.5 forward and in its own pixel
    points = rays.origins + 2.5 * rays.directions
    pose = np.asarray(camera.world_to_camera)
    local = points @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(local[..., 2], 2.5 * rays.depth_per_distance, rtol=1e-5)
    at = local[..., :2] / local[..., 2:] * camera.focal + camera.principal
    u, v = np.meshgrid(np.arange(7) + 0.5, np.arange(5) + 0.5, indexing="xy")
    np.testing.assert_allclose(at, np.stack([u, v], axis=-1), atol=1e-4)


def test_rays_meet_the_box_where_they_should():
    root = np.sqrt(0.5)
    origins = [[0, 0, 3], [0, 0, 3], [0, 0, 0], [3, 3, 0.5], [0, 0, 3], [0, 1.5, 3]]
    along = [[0, 0, -1], [0, 0, 1], [0, 0, 1], [-root, -root, 0], [1, 0, 0], [0, 0, -1]]
    rays = Rays(*map(np.float32, (origins, along, np.ones(6))))
    meet = jax.jit(volume.intersect_box, static_argnames="bound")
    near, far = jax.device_get(meet(rays, bound=1.0))
    np.testing.assert_allclose(near[:1], 2, rtol=1e-6)
    np.testing.assert_allclose(far[:1], 4, rtol=1e-6)
    np.testing.assert_allclose(near[2], 0.01)  # from inside: from the near plane on
    np.testing.assert_allclose(far[2], 1)
    np.testing.assert_allclose([near[3], far[3]], [2 / root, 4 / root], rtol=1e-6)
    missed = np.array([1, 4, 5])
    np.testing.assert_array_equal(near[missed], far[missed])


def test_a_constant_density_covers_by_beer_and_lambert():
    for n in (1, 7):
        edges = np.linspace(1.0, 3.0, n + 1)[None]
        for sigma in (0.0, 1e-7, 0.5, 40.0, 1e12):
            weights, opacity = weigh(np.full((1, n), sigma), edges)
            np.testing.assert_allclose(opacity, -np.expm1(-2 * sigma), rtol=1e-6)
            np.testing.assert_allclose(weights.sum(), opacity[0], rtol=1e-6)


def test_weights_equal_a_loop():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.random((3, 11)) * 4, axis=-1)
    density = rng.random((3, 10)) * 5
    weights, opacity = weigh(density, edges)
    for ray in range(3):
        through = 1.0
        for i in range(10):
            alpha = 1 - np.exp(-density[ray, i] * (edges[ray, i + 1] - edges[ray, i]))
            np.testing.assert_allclose(weights[ray, i], through * alpha, rtol=2e-5)
            through *= 1 - alpha
        np.testing.assert_allclose(opacity[ray], 1 - through, rtol=1e-5)


def test_depth_of_a_thin_slab_is_where_it_stands():
    """A faint one too: depth is an average over what is met, not times opacity."""
    edges = np.linspace(0.0, 4.0, 401, dtype=np.float32)
    at = 0.5 * (edges[1:] + edges[:-1])

    @jax.jit
    def depth(density):
        weights, opacity = volume.ray_weights(density, edges)
        met = volume.accumulate_along_ray(weights, at)
        return volume.normalize_by_opacity(met, opacity), opacity

    for sigma in (1e-3, 3.0, 1e4):
        density = np.where((at > 2.5) & (at < 2.52), np.float32(sigma), 0)
        np.testing.assert_allclose(depth(density)[0], 2.51, atol=6e-3)
    nothing, opacity = depth(0 * density)
    slope = jax.grad(lambda o: volume.normalize_by_opacity(jnp.float32(0), o))
    assert float(nothing) == 0
    assert float(jax.jit(slope)(opacity)) == 0


def test_what_is_not_covered_shows_the_background():
    rgb, opacity = np.float32([[0.1, 0.2, 0.3]]), np.float32([0.25])
    over = jax.jit(volume.composite_over)
    got = over(rgb, opacity, np.float32([1.0, 0.0, 0.4]))
    np.testing.assert_allclose(got, [[0.85, 0.2, 0.6]], rtol=1e-6)
    colours = np.float32([[[1.0, 0, 0], [0, 1.0, 0]]])
    along = jax.jit(volume.accumulate_along_ray)
    mixed = along(np.float32([[0.25, 0.5]]), colours)
    np.testing.assert_allclose(mixed, [[0.25, 0.5, 0]])


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(1)
    start = 6 * rng.random(8)
    start[3] = 0.0
    values = rng.random((8, 3))
    with enable_x64(True):
        edges = np.sort(rng.random(9))

        @jax.jit
        @jax.value_and_grad
        def total(density):
            weights, opacity = volume.ray_weights(density, edges)
            depth = volume.accumulate_along_ray(weights, edges[1:])
            seen = volume.accumulate_along_ray(weights, values).sum()
            return seen + volume.normalize_by_opacity(depth, opacity) + opacity**2

        slope = np.asarray(total(start)[1])
        for i in range(8):
            h = 1e-6 * np.eye(8)[i]
            ahead, behind = (float(total(start + d)[0]) for d in (h, -h))
            want = (ahead - behind) / 2e-6
            np.testing.assert_allclose(slope[i], want, rtol=1e-6, atol=1e-8)
