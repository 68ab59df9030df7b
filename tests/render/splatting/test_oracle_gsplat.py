"""Projection, covariances, spherical harmonics and compositing against gsplat's torch
reference functions (which need no CUDA), in float64.

Both sides compute the same formulas, so the bound is rounding's. Radii differ by rule:
gsplat covers 3.33 standard deviations, ours what reaches alpha = 1/255, which for an
opacity of 1 is sqrt(2 log 255) = 3.329; both round up to total_sum pixels: within 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from splat_scenes import cloud, small_camera

from sdsjax.render import spherical_harmonics as sh
from sdsjax.render.splatting.project import project
from sdsjax.render.splatting.rasterize import rasterize_reference

torch = pytest.importorskip("torch")
gsplat = pytest.importorskip("gsplat.cuda._torch_impl")

pytestmark = pytest.mark.oracle


def tensor(array):
    return torch.from_numpy(np.array(array, np.float64))


def scene(n=80, **settings):
    with enable_x64(True):
        gaussians = cloud(n, dtype=jnp.float64, **settings)
        # near the edge of the frustum and beyond, where the Jacobian is clamped
        gaussians = gaussians._replace(means=2.0 * gaussians.means)
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), small_camera(distance=3.2))
        return gaussians, wide


def projected(gaussians, camera):
    scales = torch.exp(tensor(gaussians.log_scales))
    covars, _ = gsplat._quat_scale_to_covar_preci(
        torch.nn.functional.normalize(tensor(gaussians.quats), dim=-1), scales
    )
    intrinsics = np.eye(3)
    intrinsics[0, 0], intrinsics[1, 1] = np.asarray(camera.focal)
    intrinsics[:2, 2] = np.asarray(camera.principal)
    radii, means, depths, conics, shrink = gsplat._fully_fused_projection(
        tensor(gaussians.means),
        covars,
        tensor(camera.world_to_camera)[None],
        tensor(intrinsics)[None],
        camera.width,
        camera.height,
        calc_compensations=True,
    )
    return covars, *(a[0].numpy() for a in (radii, means, depths, conics, shrink))


def test_projection_and_antialiasing():
    gaussians, camera = scene()
    _, radii, means, depths, conics, shrink = projected(gaussians, camera)
    with enable_x64(True):
        ours, blurred = (project(gaussians, camera, antialias=a) for a in (False, True))
        shown = np.asarray(ours.extent[:, 0] >= 0)
        assert 20 < shown.sum() < 81
        pairs = ((ours.mean, means), (ours.depth, depths), (ours.conic, conics))
        for got, want in pairs:
            np.testing.assert_allclose(
                np.asarray(got)[shown], want[shown], rtol=1e-9, atol=1e-9
            )
        factor = np.exp(np.asarray(blurred.log_opacity - ours.log_opacity))
        np.testing.assert_allclose(factor[shown], shrink[shown], rtol=1e-6)
        # radii, of splats of full opacity that gsplat finds inside the picture
        opaque = project(
            gaussians._replace(opacity_logits=jnp.full(80, 30.0)), camera
        ).extent
        inside = (radii > 0).all(axis=-1)
        assert inside.sum() > 20
        difference = np.ceil(np.asarray(opaque))[inside] - radii[inside]
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics(degree):
    with enable_x64(True):
        keys = jax.random.split(jax.random.key(degree))
        directions = jax.random.normal(keys[0], (40, 3), jnp.float64)
        directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
        coefficients = jax.random.normal(keys[1], (40, (degree + 1) ** 2, 3))
        want = gsplat._spherical_harmonics(
            degree, tensor(directions), tensor(coefficients)
        )
        got = sh.colour(coefficients.astype(jnp.float64), directions)
    np.testing.assert_allclose(got, np.maximum(want.numpy() + 0.5, 0), atol=1e-12)


def test_a_picture_composited_in_torch():
    """alpha and front-to-back compositing of gsplat's projection, pair by pair."""
    gaussians, camera = scene(60)
    _, _, means, depths, conics, _ = projected(gaussians, camera)
    opacity = torch.sigmoid(tensor(gaussians.opacity_logits)).numpy()
    y, x = np.meshgrid(np.arange(24) + 0.5, np.arange(40) + 0.5, indexing="ij")
    transmittance, want = np.ones((24, 40)), np.zeros((24, 40))
    with enable_x64(True):
        for i in np.argsort(depths):
            if depths[i] <= 0.01:
                continue
            dx, dy = x - means[i, 0], y - means[i, 1]
            a, b, c = conics[i]
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = np.minimum(opacity[i] * np.exp(-sigma), 0.99)
            alpha = np.where(alpha >= 1 / 255, alpha, 0)
            goes_on = transmittance * (1 - alpha) > 1e-4
            want += np.where(goes_on, alpha * transmittance, 0)
            transmittance = np.where(goes_on, transmittance * (1 - alpha), 0)
        got = rasterize_reference(gaussians, camera, background=jnp.zeros(3)).opacity
    assert 0.3 < want.max() <= 1
    np.testing.assert_allclose(got, want, atol=1e-9)
