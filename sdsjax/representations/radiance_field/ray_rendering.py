"""Evaluates a field at the samples of rays and accumulates what the rays see.

Notation as in render/raymarching/volume_rendering.py. Points in cells known to be empty
have no density (occupancy_grid.py). Normals of single points are averaged along the
ray; where none are computed, a pixel's normal is that of the field at its depth.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.render.raymarching import importance_sampling
from sdsjax.render.raymarching import volume_rendering as volume
from sdsjax.render.raymarching.volume_rendering import Rays
from sdsjax.representations.radiance_field import shading
from sdsjax.representations.radiance_field.active_points import (
    evaluate_occupied,
    occupied_points,
)
from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    activate_density,
    colour,
    raw_density,
)
from sdsjax.representations.radiance_field.normals import density_and_normals
from sdsjax.representations.radiance_field.ray_sampling import (
    FieldState,
    RaySamples,
    SamplingSettings,
    points_at,
)

Array = jax.Array


class RayOutputs(NamedTuple):
    """The accumulated outputs of rays [...].

    rgb [... 3] without background; opacity [...]; depth [...] (camera z) and normal
    [... 3] (world) as averages; aux: per-ray loss terms and counts [...] by name.
    """

    rgb: Array
    opacity: Array
    depth: Array
    normal: Array
    aux: dict[str, Array]


def render_rays(
    field: FieldSettings,
    sampling: SamplingSettings,
    params,
    state: FieldState,
    light: shading.Light | None,
    rays: Rays,
    samples: RaySamples,
) -> RayOutputs:
    """Renders rays [r] at their samples; without a light colours are unshaded."""
    points = points_at(rays, samples.distances)

    def evaluate(x, directions):
        if sampling.normals is None:
            raw, encoded = raw_density(field, params, x, state.level_weights)
            return raw, colour(field, params, encoded, directions)
        (raw, encoded), normals = density_and_normals(
            field, params, x, state.level_weights, sampling.normals
        )
        return raw, colour(field, params, encoded, directions), normals

    mask = occupied_points(field, state.occupied, points)
    (raw, rgb, *others), mask, counts = evaluate_occupied(
        evaluate, mask, sampling.capacity_share, points, rays.directions
    )
    if samples.dropped is not None:
        counts["dropped"] += samples.dropped
    normals = others[0] if others else None
    density = activate_density(field, raw)
    if mask is not None:
        density = jnp.where(mask, density, 0)
    weights, opacity = volume.ray_weights(density, samples.edges)
    if light is not None and normals is not None:
        rgb = shading.shade(light, rgb, normals, points)
    distance = volume.accumulate_along_ray(weights, samples.distances)
    distance = volume.normalize_by_opacity(distance, opacity)
    if normals is None:
        normal = _surface_normal(field, params, state, rays, distance, opacity)
    else:
        normal = volume.accumulate_along_ray(weights, normals)
        normal = volume.normalize_by_opacity(normal, opacity)
    return RayOutputs(
        rgb=volume.accumulate_along_ray(weights, rgb),
        opacity=opacity,
        depth=distance * rays.depth_per_distance,
        normal=normal,
        aux=counts | _loss_terms(field, sampling, rays, weights, samples, normals),
    )


def _surface_normal(field, params, state, rays, distance, opacity) -> Array:
    # the field's normal [r 3] at a ray's mean distance [r], without gradient
    surface = points_at(rays, distance[..., None])
    fixed, surface = jax.lax.stop_gradient((params, surface))
    _, normal = density_and_normals(
        field, fixed, surface, state.level_weights, "analytic"
    )
    return jnp.where((opacity > 0)[..., None], normal[..., 0, :], 0.0)


def _loss_terms(field, sampling, rays, weights, samples, normals) -> dict[str, Array]:
    # the per-ray terms [r] that are asked for; in a scene without an end they are
    # measured in fractions of the way
    endless, terms = field.scene == "contracted", {}
    if "z_variance" in sampling.loss_terms:
        z = samples.distances * rays.depth_per_distance[..., None]
        z = importance_sampling.midpoints(samples.edge_fractions) if endless else z
        terms["z_variance"] = loss.ray_variance(weights, z)
    if "distortion" in sampling.loss_terms:
        edges = samples.edge_fractions if endless else samples.edges
        terms["distortion"] = loss.ray_distortion(weights, edges)
    if "interlevel" in sampling.loss_terms:
        terms["interlevel"] = importance_sampling.interlevel_loss(
            samples.edge_fractions, weights, *samples.proposal_weights
        )
    if "orientation" in sampling.loss_terms:
        # Weights without gradient: the loss turns normals, it does not thin what
        # faces away.
        fixed = jax.lax.stop_gradient(weights)
        terms["orientation"] = loss.ray_orientation(fixed, normals, rays.directions)
    return terms
