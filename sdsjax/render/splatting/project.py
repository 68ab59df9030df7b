"""EWA projection of 3D Gaussians into screen-space splats.

Notation: Gaussian i has mean mu (world), scales s = exp(log_scales), rotation R of the
quaternion (w, x, y, z), covariance R diag(s^2) R^T. The camera maps p = W mu + t; its
Jacobian J of the perspective map is taken at p with p_x / p_z and p_y / p_z clamped to
0.3 tan(fov / 2) beyond the frustum; the splat's covariance is J W Sigma W^T J^T + 0.3 I
(px^2). conic = (A, B, C) of its inverse: sigma = (A dx^2 + C dy^2) / 2 + B dx dy and
alpha = exp(log_opacity - sigma). Sources: EWA splatting (Zwicker et al. 2001), 3D
Gaussian splatting (arXiv 2308.04079), gsplat (arXiv 2409.06765); antialias is
Mip-Splatting's opacity compensation (arXiv 2311.16493).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.cameras import Camera, camera_position

Array = jax.Array

NEAR = 0.01
LOW_PASS = 0.3
FRUSTUM_MARGIN = 0.3
MIN_ALPHA = 1 / 255
# Finite stand-in for log(0): exp of it is 0, and 0 times it is not NaN.
LOG_ZERO = -1e9
# e^10 world units: larger scales overflow the float32 determinant.
MAX_LOG_SCALE = 10.0


class Gaussians(NamedTuple):
    """Anisotropic Gaussians, n rows.

    means [n 3] (world), log_scales [n 3] (log world units), quats [n 4] (w x y z, any
    length), opacity_logits [n], sh [n k 3] (k = 1, 4, 9, 16), alive [n] (bool: a dead
    row is not drawn).
    """

    means: Array
    log_scales: Array
    quats: Array
    opacity_logits: Array
    sh: Array
    alive: Array


class Splats(NamedTuple):
    """Gaussians as one camera sees them.

    mean [n 2] px; conic [n 3] (A, B, C) px^-2; log_opacity [n]; depth [n] camera z;
    extent [n 2]: half width and height, px, of the box outside which alpha < 1/255,
    negative for a splat that shows nowhere (no gradient flows through extent).
    """

    mean: Array
    conic: Array
    log_opacity: Array
    depth: Array
    extent: Array


def rotation_columns(quats: Array) -> list[list[Array]]:
    """Returns rotations m[i][j], arrays [n], of quaternions [n 4] (w x y z).

    The quaternions are normalised here; a zero quaternion gives the identity.
    """
    norm2 = jnp.sum(quats**2, axis=-1)
    # The inner where keeps the gradient of a zero quaternion finite.
    usable = norm2 > 1e-24
    scale = jax.lax.rsqrt(jnp.where(usable, norm2, 1.0))
    w, x, y, z = (
        jnp.where(usable, quats[:, i] * scale, float(i == 0)) for i in range(4)
    )
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]


def normals(gaussians: Gaussians, camera: Camera) -> Array:
    """Returns each Gaussian's shortest axis [n 3] (world), facing the camera."""
    rotation = rotation_columns(gaussians.quats)
    shortest = jnp.argmin(gaussians.log_scales, axis=-1)
    chosen = [shortest == axis for axis in range(3)]
    normal = jnp.stack([jnp.select(chosen, rotation[row]) for row in range(3)], axis=-1)
    towards = camera_position(camera)[None] - gaussians.means
    facing = jnp.sum(normal * jax.lax.stop_gradient(towards), axis=-1) >= 0
    return jnp.where(facing[:, None], normal, -normal)


def view_directions(means: Array, camera: Camera) -> Array:
    """Returns unit vectors [n 3] (world) from the camera to points [n 3]."""
    offset = means - camera_position(camera)[None]
    length2 = jnp.sum(offset**2, axis=-1, keepdims=True)
    return offset * jax.lax.rsqrt(jnp.maximum(length2, 1e-24))


def project(gaussians: Gaussians, camera: Camera, *, antialias: bool = False) -> Splats:
    """Projects all Gaussians; those dead, behind NEAR or too faint get extent -1."""
    dtype = gaussians.means.dtype
    pose = camera.world_to_camera.astype(dtype)
    x, y, z = (
        sum(pose[row, i] * gaussians.means[:, i] for i in range(3)) + pose[row, 3]
        for row in range(3)
    )
    visible = (z > NEAR) & gaussians.alive.astype(bool)
    safe_z = jnp.where(visible, z, 1.0)
    fx, fy = camera.focal[0].astype(dtype), camera.focal[1].astype(dtype)
    cx, cy = camera.principal[0].astype(dtype), camera.principal[1].astype(dtype)
    mean = jnp.stack([fx * x / safe_z + cx, fy * y / safe_z + cy], axis=-1)

    across, down = _screen_axes(gaussians, camera, x / safe_z, y / safe_z, safe_z)
    raw = [
        sum(u * v for u, v in zip(left, right))
        for left, right in ((across, across), (across, down), (down, down))
    ]
    xx, xy, yy = raw[0] + LOW_PASS, raw[1], raw[2] + LOW_PASS
    det = xx * yy - xy * xy
    visible &= det > 0
    safe_det = jnp.where(visible, det, 1.0)
    conic = jnp.stack([yy, -xy, xx], axis=-1) / safe_det[:, None]

    log_opacity = jax.nn.log_sigmoid(gaussians.opacity_logits)
    if antialias:
        before = jnp.maximum(raw[0] * raw[2] - raw[1] ** 2, 0.0)
        # 1e-12: the gradient of the root stays finite where a splat has no area.
        log_opacity += 0.5 * jnp.log(jnp.maximum(before / safe_det, 1e-12))
    reach = jax.lax.stop_gradient(log_opacity) - math.log(MIN_ALPHA)
    visible &= reach > 0
    # 1e-3: rounding must not lose a pixel on the very edge of the box.
    half = jnp.sqrt(2 * jnp.maximum(reach, 0)[:, None] * jnp.stack([xx, yy], axis=-1))
    extent = jnp.where(visible[:, None], half * (1 + 1e-4) + 1e-3, -1.0)
    return Splats(
        mean=jnp.where(visible[:, None], mean, 0.0),
        conic=jnp.where(visible[:, None], conic, 0.0),
        log_opacity=jnp.where(visible, log_opacity, LOG_ZERO),
        depth=jnp.where(visible, z, 0.0),
        extent=jax.lax.stop_gradient(extent),
    )


def _screen_axes(gaussians, camera, ratio_x, ratio_y, z):
    """Rows u, v (three arrays [n] each) of J W R diag(s): their products are the
    covariance, (u.u, u.v, v.v)."""
    dtype = z.dtype
    pose, size = camera.world_to_camera.astype(dtype), (camera.width, camera.height)
    clamped = []
    for axis, ratio in enumerate((ratio_x, ratio_y)):
        focal = camera.focal[axis].astype(dtype)
        margin = FRUSTUM_MARGIN * 0.5 * size[axis] / focal
        low = -camera.principal[axis].astype(dtype) / focal - margin
        high = (size[axis] - camera.principal[axis].astype(dtype)) / focal + margin
        clamped.append((focal / z, jnp.clip(ratio, low, high)))
    rotation = rotation_columns(gaussians.quats)
    scales = jnp.exp(jnp.minimum(gaussians.log_scales, MAX_LOG_SCALE))
    rows = []
    for axis, (slope, ratio) in enumerate(clamped):
        jw = [slope * (pose[axis, i] - ratio * pose[2, i]) for i in range(3)]
        rows.append(
            [
                scales[:, j] * sum(jw[i] * rotation[i][j] for i in range(3))
                for j in range(3)
            ]
        )
    return rows
