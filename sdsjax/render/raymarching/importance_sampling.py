"""Samples along rays where a first pass found weights, and the losses of proposals.

Notation: edges [... n+1], increasing positions along a ray (distances, or fractions of
the way); weights [... n] >= 0, one a bin, constant inside it; u in [0, 1) a quantile of
the weights taken as a density. All shapes are static. Sources: hierarchical sampling,
NeRF (arXiv 2003.08934), sec. 5.2; kernel smoothing, HiFA (arXiv 2305.18766), sec. 4.2,
its K = [1, 1, 1]; proposals, mip-NeRF 360 (arXiv 2111.12077), sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array


def midpoints(edges: Array) -> Array:
    """Returns the centres [... n] of the bins of edges [... n+1]."""
    return 0.5 * (edges[..., 1:] + edges[..., :-1])


def smooth_weights(weights: Array, kernel: Sequence[float] = (1.0, 1.0, 1.0)) -> Array:
    """Averages weights [... n] with their neighbours by a kernel of odd length.

    The kernel is centred and normalised; beyond the ends the outermost weights repeat.
    As printed (HiFA, sec. 4.2) the sum starts at the bin itself, which shifts the
    weights by one bin. Raises ValueError for an even kernel.
    """
    if len(kernel) % 2 == 0:
        raise ValueError(f"kernel of {len(kernel)} entries: give an odd number")
    reach = len(kernel) // 2
    n = weights.shape[-1]
    pad = [(0, 0)] * (weights.ndim - 1) + [(reach, reach)]
    padded = jnp.pad(weights, pad, mode="edge")
    total = jnp.zeros_like(weights)
    for i, share in enumerate(kernel):
        total += share / sum(kernel) * padded[..., i : i + n]
    return total


def stratified_quantiles(count: int, offset: Array | float = 0.5) -> Array:
    """Returns the quantiles u = (i + offset) / count, [... count].

    They are stratified for offsets [... 1] uniform in [0, 1), and the strata's centres
    for 0.5.
    """
    return (jnp.arange(count) + jnp.asarray(offset)) / count


def sample_pdf(edges: Array, weights: Array, u: Array, floor: float = 1e-5) -> Array:
    """Returns the positions [... m] below which a share u [... m] of the weights lies.

    They increase as u does. floor: added to each bin's share of the weights, so that no
    bin is never sampled and a ray without weights is sampled evenly.
    """
    n = weights.shape[-1]
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # tiny: what is divided by it is then 0, and so is its gradient
    share = weights / jnp.maximum(total, jnp.finfo(weights.dtype).tiny) + floor
    ends = jnp.cumsum(share, axis=-1)
    ends = ends / ends[..., -1:]
    bin_of = jnp.sum(u[..., :, None] >= ends[..., None, :-1], axis=-1)
    starts = jnp.concatenate([jnp.zeros_like(ends[..., :1]), ends[..., :-1]], axis=-1)

    def at(values):
        values = jnp.broadcast_to(values, (*bin_of.shape[:-1], values.shape[-1]))
        return jnp.take_along_axis(values, bin_of, axis=-1)

    low, width = at(edges[..., :n]), at(jnp.diff(edges, axis=-1))
    start, end = at(starts), at(ends)
    inside = jnp.clip((u - start) / jnp.maximum(end - start, 1e-12), 0.0, 1.0)
    return low + inside * width


def merge_sorted(first: Array, second: Array) -> Array:
    """Merges positions [... a] and [... b], each increasing, into one order [... a+b].

    By counting how many of the others come before: a fifteenth of a sort's time on a
    CPU.
    """
    earlier = jnp.sum(second[..., None, :] < first[..., :, None], axis=-1)
    later = jnp.sum(first[..., None, :] <= second[..., :, None], axis=-1)
    place = [earlier + jnp.arange(first.shape[-1]), later + jnp.arange(later.shape[-1])]
    both = jnp.concatenate([first, second], axis=-1)
    return jnp.put_along_axis(
        jnp.zeros_like(both), jnp.concatenate(place, -1), both, axis=-1, inplace=False
    )


def edges_around(points: Array, near: Array, far: Array) -> Array:
    """Returns the edges [... n+1] of the bins that points [... n] stand for.

    They lie halfway between neighbours, and at near [...] and far [...] at the ends.
    """
    return jnp.concatenate(
        [near[..., None], midpoints(points), far[..., None]], axis=-1
    )


def outer_bound(inner: Array, edges: Array, weights: Array) -> Array:
    """Bounds the weights of other bins by those of a proposal: [... n].

    The bound of a bin of inner [... n+1] is the sum of the weights [... m] of those
    bins of edges [... m+1] that it overlaps (mip-NeRF 360, eq. 12).
    """
    start, end = inner[..., :-1, None], inner[..., 1:, None]
    meets = (edges[..., None, :-1] < end) & (edges[..., None, 1:] > start)
    return jnp.sum(jnp.where(meets, weights[..., None, :], 0), axis=-1)


def interlevel_loss(inner: Array, seen: Array, edges: Array, weights: Array) -> Array:
    """Measures how far a proposal's weights fail to bound the field's, [...] a ray.

    sum_i max(0, w_i - bound_i)^2 / w_i (mip-NeRF 360, eq. 13), with the field's weights
    w [... n] in the bins of inner [... n+1], and the proposal's weights [... m] in
    those of edges [... m+1]. Its gradient moves the proposal alone.
    """
    inner, seen = jax.lax.stop_gradient((inner, seen))
    excess = jnp.maximum(seen - outer_bound(inner, edges, weights), 0)
    # 1e-7: where nothing is seen, nothing exceeds the bound either
    return jnp.sum(excess**2 / (seen + 1e-7), axis=-1)
