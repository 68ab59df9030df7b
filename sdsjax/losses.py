"""Regularisers: pure functions from arrays to a scalar, unweighted, lower is better.

Notation: opacity [... h w] in [0, 1] of rendered views, rgb [... h w 3]; opacities [n],
scales [n 3] (world units), means [n 3] of Gaussians, mask [n] the rows that count; of
rays: weights [... n] of their bins, edges [... n+1], directions [... 3] (unit), normals
[... n 3]; depth [h w] camera z, disparity [h w] 1 / depth up to scale and shift.
Per-ray terms are safe where a ray meets nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.math import safe_divide

Array = jax.Array

REDUCTIONS = ("mean", "counted", "sum")
# A ray or a pixel that is more opaque than this shows a surface.
OPAQUE = 0.5


def masked_mean(values: Array, mask: Array) -> Array:
    """Returns the mean of values [n] where mask [n]; 0 where the mask is empty."""
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def sparsity(opacity: Array) -> Array:
    """Measures the mean of sqrt(opacity^2 + 0.01): empties the picture gently.

    Source: threestudio.
    """
    return jnp.mean(jnp.sqrt(opacity**2 + 0.01))


def binary_entropy(opacity: Array) -> Array:
    """Measures the mean entropy (nats) of opacities: pushes each to nothing or all.

    They are clamped to [1e-3, 1 - 1e-3].
    """
    p = jnp.clip(opacity, 1e-3, 1 - 1e-3)
    return -jnp.mean(p * jnp.log(p) + (1 - p) * jnp.log1p(-p))


def total_variation(rgb: Array) -> Array:
    """Measures the mean squared difference of neighbouring pixels of rgb.

    rgb [... h w c].
    """
    down = jnp.diff(rgb, axis=-3) ** 2
    across = jnp.diff(rgb, axis=-2) ** 2
    return jnp.mean(down) + jnp.mean(across)


def mean_opacity(opacities: Array, mask: Array) -> Array:
    """Measures the mean opacity of the Gaussians.

    Source: 3DGS-MCMC, arXiv 2404.09591, L1 on opacity.
    """
    return masked_mean(opacities, mask)


def mean_scale(scales: Array, mask: Array) -> Array:
    """Measures the mean scale of the Gaussians over their axes (arXiv 2404.09591)."""
    return masked_mean(jnp.mean(scales, axis=-1), mask)


def mean_distance(means: Array, mask: Array) -> Array:
    """Measures the mean distance of the Gaussians from the origin.

    Source: threestudio's position loss.
    """
    # 1e-12: the root's gradient at the origin stays finite.
    return masked_mean(jnp.sqrt(jnp.sum(means**2, axis=-1) + 1e-12), mask)


def outside_ball(means: Array, mask: Array, radius: float) -> Array:
    """Measures the mean squared distance by which Gaussians leave a ball."""
    length = jnp.sqrt(jnp.sum(means**2, axis=-1) + 1e-12)
    return masked_mean(jnp.maximum(length - radius, 0) ** 2, mask)


def anisotropy(scales: Array, mask: Array, limit: float = 10.0) -> Array:
    """Measures the mean excess of longest over shortest axis beyond a limit.

    It forbids needles; source: PhysGaussian, arXiv 2311.12198.
    """
    ratio = jnp.max(scales, axis=-1) / jnp.maximum(jnp.min(scales, axis=-1), 1e-12)
    return masked_mean(jnp.maximum(ratio, limit) - limit, mask)


def reduce_rays(values: Array, counted: Array, reduction: str) -> Array:
    """Reduces values [...] of rays to one number, those counted [...] (bool) alone.

    reduction: "mean" over all rays, the others being 0 (HiFA, arXiv 2305.18766, eq. 8);
    "counted", the mean over those that count, 0 where none does; "sum" (HiFA's code).
    Raises ValueError for another name.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction={reduction!r}: allowed are {', '.join(REDUCTIONS)}"
        )
    kept = jnp.where(counted, values, 0)
    if reduction == "mean":
        return jnp.mean(kept)
    if reduction == "counted":
        return masked_mean(kept, counted)
    return jnp.sum(kept)


def ray_variance(weights: Array, z: Array) -> Array:
    """Measures the variance [...] of distances z [... n] along rays.

    sum_i (z_i - mu)^2 p_i, with p = w / sum w and mu = sum_i z_i p_i (HiFA, arXiv
    2305.18766, eqs. 6-7); 0 without weights.
    """
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # 1e-8: below, the square of 1 / total would overflow the gradient
    p = weights / jnp.maximum(total, 1e-8)
    mean = jnp.sum(p * z, axis=-1, keepdims=True)
    return jnp.sum(p * (z - mean) ** 2, axis=-1)


def z_variance(weights: Array, z: Array, *, reduction: str) -> Array:
    """Measures HiFA's z-variance of weights and z [... n] of rays.

    Those rays count whose weights sum to more than one half (arXiv 2305.18766, eqs.
    7-8).
    """
    counted = jnp.sum(weights, axis=-1) > OPAQUE
    return reduce_rays(ray_variance(weights, z), counted, reduction)


def ray_distortion(weights: Array, edges: Array) -> Array:
    """Measures mip-NeRF 360's distortion [...] of rays (arXiv 2111.12077, eq. 15).

    Of weights [... n] in the bins of edges [... n+1] it is

        sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 (t_{i+1} - t_i),  m: centres,

    the double sum in one pass, as centres increase along the ray.
    """
    centres = 0.5 * (edges[..., 1:] + edges[..., :-1])
    # relative to the first centre: far from the camera the differences would round
    centres = centres - centres[..., :1]
    mass = jnp.cumsum(weights, axis=-1) - weights
    moment = jnp.cumsum(weights * centres, axis=-1) - weights * centres
    apart = 2 * jnp.sum(weights * (centres * mass - moment), axis=-1)
    return apart + jnp.sum(weights**2 * jnp.diff(edges, axis=-1), axis=-1) / 3


def ray_orientation(weights: Array, normals: Array, directions: Array) -> Array:
    """Measures Ref-NeRF's orientation [...] of rays (arXiv 2112.03907, eq. 11).

    sum_i w_i max(0, n_i . d)^2 of normals [... n 3] that face away from rays of
    directions [... 3].
    """
    away = jnp.maximum(jnp.sum(normals * directions[..., None, :], axis=-1), 0)
    return jnp.sum(weights * away**2, axis=-1)


def normal_smoothness(normal: Array, opacity: Array) -> Array:
    """Measures the mean squared difference of neighbouring pixels' unit normals.

    normal [... h w 3]; it is taken over the pairs of which both are opaque (> 1/2) in
    opacity [... h w]; 0 without any.
    """
    opaque = opacity > OPAQUE
    down = jnp.sum(jnp.diff(normal, axis=-3) ** 2, axis=-1)
    across = jnp.sum(jnp.diff(normal, axis=-2) ** 2, axis=-1)
    both_down = opaque[..., 1:, :] & opaque[..., :-1, :]
    both_across = opaque[..., 1:] & opaque[..., :-1]
    return masked_mean(down, both_down) + masked_mean(across, both_across)


def aligned_disparity(depth: Array, counted: Array, disparity: Array) -> Array:
    """Returns a / depth + b [h w], a >= 0 and b being those nearest to `disparity`.

    Nearest in the sense of least squares over the pixels counted [h w]; b alone where
    they do not vary together or 1 / depth hardly varies. A monocular estimate is known
    up to such a scale and shift (HiFA, arXiv 2305.18766, eq. 6); a negative scale would
    turn the relief inside out.
    """
    counted = counted.astype(depth.dtype)
    ours = safe_divide(counted, depth)
    ours_mean, mean = masked_mean(ours, counted), masked_mean(disparity, counted)
    apart = counted * (ours - ours_mean)
    square = jnp.sum(apart**2)
    # a surface flat to a thousandth is flat: its rounding must not be scaled up
    square = jnp.where(square > 1e-6 * jnp.sum(ours**2), square, 0.0)
    scale = safe_divide(jnp.sum(apart * disparity), square)
    # at the best scale and shift the gradient with respect to them is zero
    scale = jax.lax.stop_gradient(jnp.maximum(scale, 0.0))
    return mean + scale * apart


def disparity_mismatch(depth: Array, opacity: Array, disparity: Array) -> Array:
    """Measures how far a rendered depth is from an estimated disparity [h w], in 0..1.

    It is the share of the estimate's variance that the rendered disparity, aligned by
    scale and shift, leaves unexplained over opacity > 1/2: HiFA's depth loss in the
    estimate's own units (arXiv 2305.18766, eq. 6). 1, without a gradient, where the two
    run against each other; 0 where no pixel is opaque or the estimate is flat.
    `disparity` gets no gradient.
    """
    disparity = jax.lax.stop_gradient(disparity)
    counted = (opacity > OPAQUE) & (depth > 0)
    aligned = aligned_disparity(depth, counted, disparity)
    mean = masked_mean(disparity, counted)
    spread = masked_mean((disparity - mean) ** 2, counted)
    spread = jnp.where(spread > 1e-6 * mean**2, spread, 0.0)
    return safe_divide(masked_mean((aligned - disparity) ** 2, counted), spread)
