"""Projection against matrices written out, and its limits."""

import jax
import numpy as np
from splat_scenes import cloud, small_camera

from sdsjax.render.splatting import project as projection

# px^2 added to a splat's covariance (arXiv 2308.04079's code); written out, since a
# test that imports what it checks cannot fail.
LOW_PASS = 0.3

_project = jax.jit(projection.project, static_argnames="antialias")
normals = jax.jit(projection.normals)
rotation_columns = jax.jit(projection.rotation_columns)


def project(*arguments, **settings):
    """The splats, as numpy arrays, of the same program wherever there are 50."""
    return jax.device_get(_project(*arguments, **settings))


def covariances(gaussians):
    rotation = np.array(rotation_columns(gaussians.quats)).transpose(2, 0, 1)
    scales = np.exp(gaussians.log_scales)
    half = rotation * scales[:, None, :]
    return half @ half.transpose(0, 2, 1)


def test_conic_is_the_inverse_of_the_projected_covariance():
    gaussians, camera = cloud(50), small_camera()
    splats = project(gaussians, camera)
    pose = np.asarray(camera.world_to_camera, np.float64)
    point = gaussians.means @ pose[:3, :3].T + pose[:3, 3]
    focal = np.asarray(camera.focal, np.float64)
    (fx, fy), covariance = focal, covariances(gaussians)
    for i, (x, y, z) in enumerate(point):
        jacobian = np.array([[fx / z, 0, -fx * x / z**2], [0, fy / z, -fy * y / z**2]])
        half = jacobian @ pose[:3, :3]
        inverse = np.linalg.inv(half @ covariance[i] @ half.T + LOW_PASS * np.eye(2))
        want = [inverse[0, 0], inverse[0, 1], inverse[1, 1]]
        np.testing.assert_allclose(splats.conic[i], want, rtol=2e-4)
    mean = focal * point[:, :2] / point[:, 2:] + np.asarray(camera.principal)
    np.testing.assert_allclose(splats.mean, mean, atol=1e-4)
    np.testing.assert_allclose(splats.depth, point[:, 2], rtol=1e-6)


def test_rotations_are_rotations_and_a_zero_quaternion_is_none():
    quats = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    quats[0] = 0.0
    matrices = np.array(rotation_columns(quats)).transpose(2, 0, 1)
    np.testing.assert_allclose(matrices[0], np.eye(3))
    eye = np.broadcast_to(np.eye(3), (50, 3, 3))
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), eye, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-5)


def test_jacobian_is_clamped_beyond_the_frustum():
    """Far off screen the covariance stops growing: arXiv 2308.04079's code, gsplat."""
    camera = small_camera(0.0, 0.0)
    # of which the first is looked at
    alike = cloud(50)._replace(
        log_scales=np.full((50, 3), np.log(0.1), np.float32),
        opacity_logits=np.full(50, 4.0, np.float32),
    )

    def width(x):
        means = np.tile(np.float32([x, 0.0, 0.0]), (50, 1))
        return project(alike._replace(means=means), camera).conic[0, 0]

    near, *widths = (width(x) for x in (0.0, 3.0, 30.0))
    np.testing.assert_allclose(*widths, rtol=1e-4)
    assert near > 1.05 * widths[0]
    # x / z stops at the rim, and 0.3 of half a picture beyond it
    focal = 12 / np.tan(np.deg2rad(20.0))
    ratio, slope = (20 + 0.3 * 20) / focal, focal / 3.1
    want = (0.1 * slope) ** 2 * (1 + ratio**2) + 0.3
    np.testing.assert_allclose(widths, 1 / want, rtol=1e-4)


def test_hidden_splats_have_no_extent():
    gaussians, camera = cloud(50), small_camera(0.0, 0.0)
    gaussians.means[0] = [0.0, 0.0, 5.0]
    gaussians.opacity_logits[:4] = [2.0, -9.0, 2.0, 2.0]
    gaussians.alive[:] = np.arange(50) < 4
    gaussians.alive[2] = False
    extent = project(gaussians, camera).extent
    assert np.all(extent[:3] == -1)
    assert np.all(extent[3] > 0)
    assert np.all(extent[4:] == -1)
    # 0.01 before the camera, which stands at z = 3.1, and as faint as 1/255
    gaussians.means[:4] = [[0, 0, 3.1 - d] for d in (0.005, 0.015, 3.0, 3.0)]
    gaussians.opacity_logits[:2] = 2.0
    gaussians.opacity_logits[2:4] = [-np.log(n - 1) for n in (255.5, 254.5)]
    gaussians.alive[:4] = True
    shown = (project(gaussians, camera).extent > 0).all(axis=1)
    assert shown[:4].tolist() == [False, True, False, True]


def test_extent_bounds_every_visible_pixel():
    gaussians, camera = cloud(50, opacity=2.0), small_camera()
    splats = project(gaussians, camera)
    angle = np.linspace(0, 2 * np.pi, 64)
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    for (a, b, c), log_opacity, extent in zip(
        splats.conic, splats.log_opacity, splats.extent
    ):
        form = a * ray[:, 0] ** 2 + 2 * b * ray[:, 0] * ray[:, 1] + c * ray[:, 1] ** 2
        reach = np.sqrt(2 * max(log_opacity + np.log(255), 0) / form)
        rim = np.max(np.abs(ray * reach[:, None]), axis=0)
        assert np.all(extent >= rim)
        assert np.all(extent <= 1.01 * rim + 0.01)


def test_antialias_keeps_the_area_of_small_splats():
    """Opacity times the root of the determinant is what it was before the blur."""
    gaussians, camera = cloud(50, scale=0.01), small_camera()
    plain, soft = project(gaussians, camera), project(gaussians, camera, antialias=True)
    seen = (plain.extent[:, 0] > 0) & (soft.extent[:, 0] > 0)
    a, b, c = np.asarray(soft.conic, np.float64)[seen].T
    inverse = np.linalg.inv(np.stack([a, b, b, c], axis=-1).reshape(-1, 2, 2))
    sharp = np.linalg.det(inverse - LOW_PASS * np.eye(2))
    ratio = np.exp(np.subtract(soft.log_opacity, plain.log_opacity)[seen])
    want = np.sqrt(sharp / np.linalg.det(inverse))
    np.testing.assert_allclose(ratio, want, rtol=2e-2)
    assert np.sum(seen) > 3


def test_normals_are_short_axes_that_face_the_camera():
    gaussians, camera = cloud(50), small_camera()
    normal = np.asarray(normals(gaussians, camera))
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    pose = np.asarray(camera.world_to_camera)
    towards = -pose[:3, 3] @ pose[:3, :3] - gaussians.means
    assert np.all(np.sum(normal * towards, axis=1) >= 0)
    spread = np.einsum("ni,nij,nj->n", normal, covariances(gaussians), normal)
    np.testing.assert_allclose(
        spread, np.exp(2 * np.min(gaussians.log_scales, axis=1)), rtol=1e-3
    )
