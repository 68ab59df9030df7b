"""Volume rendering along rays: where a ray meets a box, and what it sees there.

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
    """origins, directions (unit) [... 3], world frame; forward [...]: camera z gained
    per unit of distance."""

    origins: Array
    directions: Array
    forward: Array


def camera_rays(camera: Camera, dtype=None) -> Rays:
    """The rays [h w] through the centres of a camera's pixels."""
    origins, directions = pixel_rays(camera)
    forward = directions @ camera.world_to_camera[2, :3].astype(directions.dtype)
    dtype = directions.dtype if dtype is None else dtype
    return Rays(*(a.astype(dtype) for a in (origins, directions, forward)))


def meet_box(rays: Rays, bound: float, near: float = 0.01) -> tuple[Array, Array]:
    """Distances (t_0, t_1) [...] between which rays are inside the cube [-bound,
    bound]^3, from `near` on; both are equal for a ray that misses it (slab method)."""
    along = rays.directions
    safe = jnp.where(jnp.abs(along) < _TINY, jnp.where(along < 0, -_TINY, _TINY), along)
    first, second = (-bound - rays.origins) / safe, (bound - rays.origins) / safe
    enter = jnp.max(jnp.minimum(first, second), axis=-1)
    leave = jnp.min(jnp.maximum(first, second), axis=-1)
    enter = jnp.maximum(enter, near)
    return enter, jnp.maximum(leave, enter)


def spread(near: Array, far: Array, shares: Array, curve: float | None = None) -> Array:
    """Distances [... n] of shares [... n] in [0, 1] of the way from near [...] to far
    [...].

    curve: None for even shares of the way, or b > 0 for even shares of 1 / (t + b),
    inverse distance (mip-NeRF 360, arXiv 2111.12077, eq. 11) as seen from b behind the
    origin: nearer than b it is all but even.
    """
    near, far = near[..., None], far[..., None]
    if curve is None:
        return near + (far - near) * shares
    before, after = (1 - shares) * (far + curve), shares * (near + curve)
    return (near * before + far * after) / (before + after)


def ray_weights(density: Array, edges: Array) -> tuple[Array, Array]:
    """(weights [... n], opacity [...]) of densities [... n] in the bins of edges."""
    tau = density * jnp.diff(edges, axis=-1)
    reached = jnp.cumsum(tau, axis=-1)
    start = jnp.zeros_like(reached[..., :1])
    before = jnp.exp(-jnp.concatenate([start, reached[..., :-1]], axis=-1))
    # expm1: where tau is 1e-6 the difference 1 - exp(-tau) would have one digit
    return before * -jnp.expm1(-tau), -jnp.expm1(-reached[..., -1])


def along_ray(weights: Array, values: Array) -> Array:
    """sum_i w_i v_i: [...] of values [... n], [... c] of values [... n c]."""
    if values.ndim == weights.ndim:
        return jnp.sum(weights * values, axis=-1)
    return jnp.sum(weights[..., None] * values, axis=-2)


def per_opacity(total: Array, opacity: Array) -> Array:
    """What was summed over a ray as an average over what it meets, 0 where it meets
    nothing. total [...] or [... c], opacity [...]."""
    met = opacity > 0
    share = jnp.where(met, 1 / jnp.where(met, opacity, 1.0), 0.0)
    return total * (share if total.ndim == opacity.ndim else share[..., None])


def over_background(rgb: Array, opacity: Array, background: Array) -> Array:
    """rgb [... 3], already times its weights, over a background [3] or [... 3]."""
    return rgb + (1 - opacity)[..., None] * background
