"""Bare image and geometry metrics: arrays in, a scalar out.

Notation: images a, b `[h w c]` in [0, peak]; mask `[h w]` (0 or 1, or bool); points
p `[n 3]`, q `[m 3]` in world units. SSIM: Wang et al., "Image quality assessment: from
error visibility to structural similarity", 2004.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def mean_squared_error(a: Array, b: Array, mask: Array | None = None) -> Array:
    """Mean of (a - b)^2 over pixels and channels; over the mask where one is given.

    An empty mask gives 0: no pixel differs.
    """
    square = jnp.mean((a - b) ** 2, axis=-1)
    if mask is None:
        return jnp.mean(square)
    mask = mask.astype(square.dtype)
    return jnp.sum(square * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def psnr(
    a: Array, b: Array, mask: Array | None = None, *, peak: float = 1.0, cap=100.0
) -> Array:
    """Peak signal-to-noise ratio, dB, at most `cap` (equal images have no noise)."""
    error = mean_squared_error(a, b, mask)
    floor = peak**2 * 10.0 ** (-cap / 10.0)
    return 10.0 * jnp.log10(peak**2 / jnp.maximum(error, floor))


def iou(a: Array, b: Array) -> Array:
    """Intersection over union of two boolean masks; 1 when both are empty."""
    a, b = a.astype(bool), b.astype(bool)
    union = jnp.sum(a | b)
    return jnp.where(union > 0, jnp.sum(a & b) / jnp.maximum(union, 1), 1.0)


def nearest_distances(p: Array, q: Array, *, chunk: int = 512) -> Array:
    """Euclidean distance `[n]` from each p to its nearest q, `chunk` rows at a time."""

    def one(point):
        # Differences, not |p|^2 + |q|^2 - 2 p.q: the latter loses half the digits.
        return jnp.sqrt(jnp.min(jnp.sum((q - point) ** 2, axis=-1)))

    return jax.lax.map(one, p, batch_size=min(chunk, p.shape[0]))


def chamfer(p: Array, q: Array, *, chunk: int = 512) -> Array:
    """Symmetric Chamfer distance, world units: the mean of the two directed means.

    Raises ValueError when either set is empty.
    """
    if p.shape[0] == 0 or q.shape[0] == 0:
        raise ValueError(
            f"chamfer needs points on both sides, got {p.shape}, {q.shape}"
        )
    there = jnp.mean(nearest_distances(p, q, chunk=chunk))
    back = jnp.mean(nearest_distances(q, p, chunk=chunk))
    return 0.5 * (there + back)


def _blur(image: Array, sigma: float, radius: int) -> Array:
    """Separable Gaussian window over `[h w c]`, only where it fits ("valid")."""
    offsets = jnp.arange(-radius, radius + 1)
    window = jnp.exp(-0.5 * (offsets / sigma) ** 2)
    window = window / jnp.sum(window)
    along = jax.vmap(lambda v: jnp.convolve(v, window, mode="valid"), -1, -1)
    rows = jax.vmap(along, 0, 0)(image)
    return jax.vmap(along, 1, 1)(rows)


def ssim(
    a: Array, b: Array, *, peak: float = 1.0, sigma: float = 1.5, radius: int = 5
) -> Array:
    """Mean structural similarity (Wang et al. 2004: K1 = .01, K2 = .03, 11x11 window).

    Raises ValueError for images smaller than the window.
    """
    if min(a.shape[:2]) < 2 * radius + 1:
        raise ValueError(
            f"ssim needs {2 * radius + 1} pixels a side, got {a.shape[:2]}"
        )
    mean_a, mean_b = _blur(a, sigma, radius), _blur(b, sigma, radius)
    var_a = _blur(a * a, sigma, radius) - mean_a**2
    var_b = _blur(b * b, sigma, radius) - mean_b**2
    cov = _blur(a * b, sigma, radius) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return jnp.mean(top / bottom)
