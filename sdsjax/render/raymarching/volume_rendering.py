"""Volume rendering along rays: their way through a box, their weights and their sums.

Notation: a ray o + t d, d of unit length, t in world units; density sigma_i [... n] per
world unit, constant in the bins of edges t_0 < ... < t_n; with tau_i = sigma_i (t_{i+1}
- t_i) (NeRF, arXiv 2003.08934, eq. 3; DreamFusion, arXiv 2209.14988, sec. 3.1)

    w_i = exp(-sum_{j<i} tau_j) (1 - exp(-tau_i)),   opacity = sum w_i.

Depth is camera z, sum w_i z_i / opacity with z_i = t_i (d . forward); as all averages
over what a ray meets it is 0 where nothing is met.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.cameras import Camera, pixel_rays

Array = jax.Array

# Shorter components of a unit vector are taken for this long: 1 / 0 times 0 is NaN.
_TINY = 1e-9


class Rays(NamedTuple):
    """Rays [...] in the world frame.

    origins, directions (unit) [... 3]; depth_per_distance [...]: camera z gained per
    unit of distance along the ray.
    """

    origins: Array
    directions: Array
    depth_per_distance: Array


def camera_rays(camera: Camera, dtype=None) -> Rays:
    """Returns the rays [h w] through the centres of a camera's pixels."""
    origins, directions = pixel_rays(camera)
    depth_per_distance = directions @ camera.world_to_camera[2, :3].astype(
        directions.dtype
    )
    dtype = directions.dtype if dtype is None else dtype
    return Rays(*(a.astype(dtype) for a in (origins, directions, depth_per_distance)))


def intersect_box(rays: Rays, bound: float, near: float = 0.01) -> tuple[Array, Array]:
    """Returns the distances (t_0, t_1) [...] between which rays are inside a cube.

    The cube is [-bound, bound]^3, t_0 at least `near`; both are equal for a ray that
    misses it (slab method).
    """
    along = rays.directions
    safe = jnp.where(jnp.abs(along) < _TINY, jnp.where(along < 0, -_TINY, _TINY), along)
    first, second = (-bound - rays.origins) / safe, (bound - rays.origins) / safe
    enter = jnp.max(jnp.minimum(first, second), axis=-1)
    leave = jnp.min(jnp.maximum(first, second), axis=-1)
    enter = jnp.maximum(enter, near)
    return enter, jnp.maximum(leave, enter)


def fraction_to_distance(
    near: Array, far: Array, fractions: Array, inverse_offset: float | None = None
) -> Array:
    """Returns distances [... n] at fractions [... n] of the way from near to far.

    inverse_offset: None for a distance linear in the fraction, or b > 0 for an inverse
    distance 1 / (t + b) linear in it (mip-NeRF 360, arXiv 2111.12077, eq. 11), as seen
    from b behind the origin: nearer than b it is all but even.
    """
    near, far = near[..., None], far[..., None]
    if inverse_offset is None:
        return near + (far - near) * fractions
    before, after = (
        (1 - fractions) * (far + inverse_offset),
        fractions * (near + inverse_offset),
    )
    return (near * before + far * after) / (before + after)


def ray_weights(density: Array, edges: Array) -> tuple[Array, Array]:
    """Returns (weights [... n], opacity [...]) of densities [... n] and bin edges."""
    tau = density * jnp.diff(edges, axis=-1)
    reached = jnp.cumsum(tau, axis=-1)
    start = jnp.zeros_like(reached[..., :1])
    before = jnp.exp(-jnp.concatenate([start, reached[..., :-1]], axis=-1))
    # expm1: where tau is 1e-6 the difference 1 - exp(-tau) would have one digit
    return before * -jnp.expm1(-tau), -jnp.expm1(-reached[..., -1])


def accumulate_along_ray(weights: Array, values: Array) -> Array:
    """Sums w_i v_i along rays: [...] of values [... n], [... c] of values [... n c]."""
    if values.ndim == weights.ndim:
        return jnp.sum(weights * values, axis=-1)
    return jnp.sum(weights[..., None] * values, axis=-2)


def normalize_by_opacity(total: Array, opacity: Array) -> Array:
    """Turns a sum over a ray into an average over what it meets.

    It is 0 where the ray meets nothing. total [...] or [... c], opacity [...].
    """
    met = opacity > 0
    share = jnp.where(met, 1 / jnp.where(met, opacity, 1.0), 0.0)
    return total * (share if total.ndim == opacity.ndim else share[..., None])


def composite_over(rgb: Array, opacity: Array, background: Array) -> Array:
    """Lays rgb [... 3], already times its weights, over a background [3] or [... 3]."""
    return rgb + (1 - opacity)[..., None] * background
