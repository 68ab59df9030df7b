"""Regularisers: pure functions from arrays to a scalar, unweighted, lower is better.

Notation: opacity [... h w] in [0, 1] of rendered views, rgb [... h w 3]; opacities [n],
scales [n 3] (world units), means [n 3] of Gaussians, mask [n] the rows that count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of values [n] where mask [n]; 0 where the mask is empty."""
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def sparsity(opacity: Array) -> Array:
    """Mean sqrt(opacity^2 + 0.01): empties the picture gently (threestudio)."""
    return jnp.mean(jnp.sqrt(opacity**2 + 0.01))


def binary_entropy(opacity: Array) -> Array:
    """Mean entropy (nats) of opacities, clamped to [1e-3, 1 - 1e-3]: pushes each to
    nothing or all."""
    p = jnp.clip(opacity, 1e-3, 1 - 1e-3)
    return -jnp.mean(p * jnp.log(p) + (1 - p) * jnp.log1p(-p))


def total_variation(rgb: Array) -> Array:
    """Mean squared difference of neighbouring pixels of rgb [... h w c]."""
    down = jnp.diff(rgb, axis=-3) ** 2
    across = jnp.diff(rgb, axis=-2) ** 2
    return jnp.mean(down) + jnp.mean(across)


def mean_opacity(opacities: Array, mask: Array) -> Array:
    """Mean opacity of the Gaussians (3DGS-MCMC, arXiv 2404.09591, L1 on opacity)."""
    return masked_mean(opacities, mask)


def mean_scale(scales: Array, mask: Array) -> Array:
    """Mean scale of the Gaussians over their three axes (arXiv 2404.09591)."""
    return masked_mean(jnp.mean(scales, axis=-1), mask)


def mean_distance(means: Array, mask: Array) -> Array:
    """Mean distance of the Gaussians from the origin (threestudio's position loss)."""
    # 1e-12: the root's gradient at the origin stays finite.
    return masked_mean(jnp.sqrt(jnp.sum(means**2, axis=-1) + 1e-12), mask)


def outside_ball(means: Array, mask: Array, radius: float) -> Array:
    """Mean squared distance by which Gaussians leave the ball of a radius."""
    length = jnp.sqrt(jnp.sum(means**2, axis=-1) + 1e-12)
    return masked_mean(jnp.maximum(length - radius, 0) ** 2, mask)


def anisotropy(scales: Array, mask: Array, limit: float = 10.0) -> Array:
    """Mean excess of longest over shortest axis beyond limit (PhysGaussian,
    arXiv 2311.12198: no needles)."""
    ratio = jnp.max(scales, axis=-1) / jnp.maximum(jnp.min(scales, axis=-1), 1e-12)
    return masked_mean(jnp.maximum(ratio, limit) - limit, mask)
