"""Along rays through a field: where to look, and what is seen there.

Notation: a ray is cut into `coarse` bins between the points where it meets the cube
[-bound, bound]^3; their weights, without gradient, are smoothed ([1, 1, 1] / 3, HiFA,
arXiv 2305.18766, sec. 4.2) and say where `fine` more points lie. All coarse + fine
points together, in order, are what is seen (render/volume.py, stepfun.py; field.py).
Normals of single points are averaged along the ray; where none are wanted, a pixel's
normal is that of the field at its depth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.render import stepfun, volume
from sdsjax.render.volume import Rays
from sdsjax.representations import shading
from sdsjax.representations.field import (
    Field,
    colour_of,
    density_of,
    raw_density,
    with_normals,
)

Array = jax.Array


class Sampling(NamedTuple):
    """Static settings of a ray: numbers of points, width of the kernel that smooths the
    coarse weights, the per-ray terms that are wanted, how normals are taken (None: not
    at single points)."""

    coarse: int
    fine: int
    kernel: int
    terms: tuple[str, ...]
    normals: str | None


class Drawn(NamedTuple):
    """What rays see, all [...]: rgb [... 3] without background; depth (camera z) and
    normal [... 3] as averages; terms by name."""

    rgb: Array
    opacity: Array
    depth: Array
    normal: Array
    terms: dict[str, Array]


def ray_points(field: Field, sampling: Sampling, params, level_weights, rays, u):
    """(distances [... n], edges [... n+1]) of the points seen; no gradient.

    u [... 2]: offsets in [0, 1) of the coarse and the fine points in their strata.
    """
    near, far = volume.meet_box(rays, field.bound)
    span = (far - near)[..., None]
    coarse, fine = sampling.coarse, sampling.fine
    first = near[..., None] + span * stepfun.quantiles(coarse, u[..., :1])
    if not fine:
        return first, stepfun.edges_around(first, near, far)
    edges = near[..., None] + span * jnp.linspace(0.0, 1.0, coarse + 1)
    raw, _ = raw_density(field, params, _at(rays, first), level_weights)
    weights, _ = volume.ray_weights(density_of(field, raw), edges)
    weights = stepfun.smooth(weights, (1.0,) * sampling.kernel)
    second = stepfun.invert(edges, weights, stepfun.quantiles(fine, u[..., 1:]))
    points = stepfun.merge(first, second)
    return points, stepfun.edges_around(points, near, far)


def _at(rays: Rays, distances: Array) -> Array:
    along = distances[..., None] * rays.directions[..., None, :]
    return rays.origins[..., None, :] + along


def draw_points(
    field: Field,
    sampling: Sampling,
    params,
    level_weights,
    light,
    rays,
    distances,
    edges,
) -> Drawn:
    """What rays [...] see at `ray_points`. light: a shading.Light, or None for plain
    colours."""
    points, normals = _at(rays, distances), None
    if sampling.normals is None:
        raw, encoded = raw_density(
            field, params, points, level_weights, move_points=False
        )
    else:
        (raw, encoded), normals = with_normals(
            field, params, points, level_weights, sampling.normals
        )
    weights, opacity = volume.ray_weights(density_of(field, raw), edges)
    rgb = colour_of(field, params, encoded, rays.directions)
    if light is not None and normals is not None:
        rgb = shading.shade(light, rgb, normals, points)
    distance = volume.per_opacity(volume.along_ray(weights, distances), opacity)
    if normals is None:
        still, at = jax.lax.stop_gradient((params, _at(rays, distance[..., None])))
        _, normal = with_normals(field, still, at, level_weights, "analytic")
        normal = jnp.where((opacity > 0)[..., None], normal[..., 0, :], 0.0)
    else:
        normal = volume.per_opacity(volume.along_ray(weights, normals), opacity)
    return Drawn(
        rgb=volume.along_ray(weights, rgb),
        opacity=opacity,
        depth=distance * rays.forward,
        normal=normal,
        terms=_terms(sampling, rays, weights, distances, edges, normals),
    )


def _terms(sampling, rays, weights, distances, edges, normals) -> dict[str, Array]:
    # each per-ray term that is asked for, [...]
    terms = {}
    if "z_variance" in sampling.terms:
        z = distances * rays.forward[..., None]
        terms["z_variance"] = loss.ray_variance(weights, z)
    if "distortion" in sampling.terms:
        terms["distortion"] = loss.ray_distortion(weights, edges)
    if "orientation" in sampling.terms:
        # Weights without gradient: the loss turns normals, it does not thin what
        # faces away.
        fixed = jax.lax.stop_gradient(weights)
        terms["orientation"] = loss.ray_orientation(fixed, normals, rays.directions)
    return terms


def in_chunks(draw, rays: Any, chunk: int) -> Any:
    """draw over rays, leaves [h w ...], at most `chunk` at once, one chunk after the
    other; the last is filled up with rays of the first."""
    shape = jax.tree.leaves(rays)[0].shape[:2]
    count = shape[0] * shape[1]
    rays = jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), rays)
    if count <= chunk:
        drawn = draw(rays)
    else:
        parts = -(-count // chunk)
        index = jnp.arange(parts * chunk) % count
        rays = jax.tree.map(
            lambda a: a[index].reshape(parts, chunk, *a.shape[1:]), rays
        )
        drawn = jax.lax.map(draw, rays)
        drawn = jax.tree.map(
            lambda a: a.reshape(parts * chunk, *a.shape[2:])[:count], drawn
        )
    return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), drawn)
