"""Chooses the points along rays at which a field is evaluated.

Notation: a position along a ray is a distance t (world units) or its fraction s in
[0, 1] of the way from the near to the far end. In a "box" scene the way is that through
the cube [-bound, bound]^3, and s is proportional to t; in a "contracted" scene it goes
from `NEAR` to 1000 bounds, and s is proportional to inverse distance
(volume_rendering.fraction_to_distance).

A first pass cuts the way into `coarse` bins. Their weights, smoothed by a kernel ([1,
1, 1] / 3, HiFA, arXiv 2305.18766, sec. 4.2), say where `fine` more points lie. Without
a proposal the weights are the field's own, without gradient, and the ray's samples are
all coarse + fine points in order. With a proposal (mip-NeRF 360, arXiv 2111.12077, sec.
3) the weights are the proposal's, the samples are the fine points alone, and the
interlevel loss moves the proposal.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.render.raymarching import importance_sampling
from sdsjax.render.raymarching import volume_rendering as volume
from sdsjax.render.raymarching.volume_rendering import Rays
from sdsjax.representations.radiance_field.active_points import (
    evaluate_occupied,
    occupied_points,
)
from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    activate_density,
    raw_density,
)

Array = jax.Array

NEAR, FAR = 0.01, 1000.0  # world units; bounds


class SamplingSettings(NamedTuple):
    """The static settings of a ray's samples.

    coarse, fine: numbers of points; kernel: width of the smoothing of the coarse
    weights; loss_terms: names of the per-ray terms that are computed; normals: how
    those of single points are computed (normals.NORMALS; None: they are not); proposal:
    the proposal's field (None: the coarse pass is the field's own); capacity_share: the
    share of the points that can be evaluated where an occupancy grid is kept (1: all).
    """

    coarse: int
    fine: int
    kernel: int
    loss_terms: tuple[str, ...]
    normals: str | None
    proposal: FieldSettings | None = None
    capacity_share: float = 1.0


class FieldState(NamedTuple):
    """What is known of a field besides its parameters.

    level_weights [L]: of the hash grid, None where all levels count; occupied [r r r]:
    which cells are, None where all are.
    """

    level_weights: Array | None = None
    occupied: Array | None = None


class RaySamples(NamedTuple):
    """The samples of rays [...], without gradient.

    distances [... n] (world units); edges [... n+1] of the bins that they stand for,
    and edge_fractions [... n+1], the same as fractions of the way; proposal_weights:
    (edge fractions [... m+1], weights [... m]) of the proposal, with its gradient, or
    None; dropped [...]: coarse points for which there was no room, or None.
    """

    distances: Array
    edges: Array
    edge_fractions: Array
    proposal_weights: tuple[Array, Array] | None = None
    dropped: Array | None = None


def points_at(rays: Rays, distances: Array) -> Array:
    """Returns the points [... n 3] at distances [... n] along rays [...]."""
    along = distances[..., None] * rays.directions[..., None, :]
    return rays.origins[..., None, :] + along


def sample_rays(
    field: FieldSettings,
    sampling: SamplingSettings,
    params,
    state: FieldState,
    rays: Rays,
    offsets: Array,
) -> RaySamples:
    """Returns the samples of rays [r].

    offsets [r 2]: places in [0, 1) of the coarse and of the fine points in their
    strata.
    """
    to_distance = _fraction_to_distance(field, rays)
    coarse = importance_sampling.stratified_quantiles(sampling.coarse, offsets[..., :1])
    fractions, proposal_weights, dropped = coarse, None, None
    if sampling.fine:
        edges = jnp.linspace(0.0, 1.0, sampling.coarse + 1)
        edges = jnp.broadcast_to(edges, (*coarse.shape[:-1], sampling.coarse + 1))
        density, dropped = _coarse_density(
            field, sampling, params, state, points_at(rays, to_distance(coarse))
        )
        weights, _ = volume.ray_weights(density, to_distance(edges))
        smoothed = importance_sampling.smooth_weights(weights, (1.0,) * sampling.kernel)
        quantiles = importance_sampling.stratified_quantiles(
            sampling.fine, offsets[..., 1:]
        )
        fractions = importance_sampling.sample_pdf(
            edges, jax.lax.stop_gradient(smoothed), quantiles
        )
        if sampling.proposal is None:
            fractions = importance_sampling.merge_sorted(coarse, fractions)
        else:
            proposal_weights = edges, weights
    ends = _ends(rays, fractions, only_fine=proposal_weights is not None)
    edges = importance_sampling.edges_around(fractions, *ends)
    return RaySamples(
        to_distance(fractions), to_distance(edges), edges, proposal_weights, dropped
    )


def _fraction_to_distance(field: FieldSettings, rays: Rays):
    # fractions [... n] -> distances [... n]
    if field.scene == "contracted":
        near = jnp.full_like(rays.depth_per_distance, NEAR)
        far = jnp.full_like(rays.depth_per_distance, FAR * field.bound)
        return partial(
            volume.fraction_to_distance, near, far, inverse_offset=field.bound
        )
    return partial(
        volume.fraction_to_distance, *volume.intersect_box(rays, field.bound, NEAR)
    )


def _ends(rays: Rays, fractions: Array, *, only_fine: bool) -> tuple[Array, Array]:
    # where the first sample's bin begins and the last one's ends, as fractions
    whole = (
        jnp.zeros_like(rays.depth_per_distance),
        jnp.ones_like(rays.depth_per_distance),
    )
    if not only_fine:
        return whole
    # Without coarse points between them and the ends of the way, the outermost fine
    # ones stand for as much beyond as on their inner side.
    between = importance_sampling.midpoints(fractions)
    begin = 2 * fractions[..., 0] - between[..., 0]
    end = 2 * fractions[..., -1] - between[..., -1]
    return jnp.maximum(begin, 0.0), jnp.minimum(end, 1.0)


def _coarse_density(field, sampling, params, state: FieldState, points):
    # density [r n], the proposal's with a gradient to the proposal alone; and how many
    # points [r] there was no room for, or None
    if sampling.proposal is not None:
        raw, _ = raw_density(sampling.proposal, params.proposal, points)
        density = activate_density(sampling.proposal, raw)
        mask = occupied_points(field, state.occupied, points)
        return density if mask is None else jnp.where(mask, density, 0), None
    mask = occupied_points(field, state.occupied, points)
    fixed = jax.lax.stop_gradient(params)

    def evaluate(x, directions):
        del directions
        return raw_density(field, fixed, x, state.level_weights)[:1]

    (raw,), mask, counts = evaluate_occupied(
        evaluate, mask, sampling.capacity_share, points, None
    )
    density = activate_density(field, raw)
    density = density if mask is None else jnp.where(mask, density, 0)
    return density, counts.get("dropped")
