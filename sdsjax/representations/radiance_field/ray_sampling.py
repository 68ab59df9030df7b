"""Along rays through a field: where to look, and what is seen there.

Notation: a ray is cut into `coarse` bins of shares s in [0, 1] of its way: through the
cube [-bound, bound]^3, or in a contracted scene from `NEAR` to 1000 bounds in shares of
inverse distance (volume.spread). Their weights are smoothed ([1, 1, 1] / 3, HiFA, arXiv
2305.18766, sec. 4.2) and say where `fine` more points lie. The weights are the field's
own, without gradient: then all coarse + fine points, in order, are what is seen. Or
they are a proposal's (mip-NeRF 360, arXiv 2111.12077, sec. 3): then the fine points
alone are, and the interlevel loss moves the proposal (render/raymarching;
field.py). Points in cells known to be empty have no density (occupancy_grid.py).
Normals of single points are averaged along the ray; where none are wanted, a pixel's
normal is that of the field at its depth.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.render.raymarching import step_functions
from sdsjax.render.raymarching import volume_rendering as volume
from sdsjax.render.raymarching.volume_rendering import Rays
from sdsjax.representations.radiance_field import occupancy_grid, shading
from sdsjax.representations.radiance_field.active_points import (
    gather,
    put_back,
    take_slots,
)
from sdsjax.representations.radiance_field.field import (
    Field,
    colour_of,
    density_of,
    in_cube,
    raw_density,
    with_normals,
)

Array = jax.Array

NEAR, FAR = 0.01, 1000.0  # world units; bounds


class Sampling(NamedTuple):
    """Static settings of a ray: numbers of points, width of the kernel that smooths the
    coarse weights, the per-ray terms that are wanted, how normals are taken (None: not
    at single points), the proposal's field (None: the field's own coarse pass) and for
    which share of the points there is room (1: for all)."""

    coarse: int
    fine: int
    kernel: int
    terms: tuple[str, ...]
    normals: str | None
    guide: Field | None = None
    room: float = 1.0


class Known(NamedTuple):
    """What is known of a field besides its parameters: level_weights [L], or None where
    all count; occupied [r r r], or None where all is."""

    level_weights: Array | None = None
    occupied: Array | None = None


class Places(NamedTuple):
    """Where rays [...] are looked at: distances [... n] (world) and edges [... n+1] of
    their bins, without gradient; shares [... n+1]: the edges as shares of the way;
    proposed: (shares [... m+1], weights [... m]) of the proposal, or None; dropped
    [...]: coarse points that found no room, or None."""

    distances: Array
    edges: Array
    shares: Array
    proposed: tuple[Array, Array] | None = None
    dropped: Array | None = None


class Drawn(NamedTuple):
    """What rays see, all [...]: rgb [... 3] without background; depth (camera z) and
    normal [... 3] as averages; terms by name."""

    rgb: Array
    opacity: Array
    depth: Array
    normal: Array
    terms: dict[str, Array]


def _way(field: Field, rays: Rays):
    # shares [... n] -> distances [... n]
    if field.scene == "contracted":
        near = jnp.full_like(rays.forward, NEAR)
        far = jnp.full_like(rays.forward, FAR * field.bound)
        return partial(volume.spread, near, far, curve=field.bound)
    return partial(volume.spread, *volume.meet_box(rays, field.bound, NEAR))


def ray_points(field: Field, sampling: Sampling, params, known: Known, rays, u):
    """The Places where rays [r] are looked at.

    u [r 2]: offsets in [0, 1) of the coarse and the fine points in their strata.
    """
    way, coarse = _way(field, rays), sampling.coarse
    first = step_functions.quantiles(coarse, u[..., :1])
    shares = first
    proposed = dropped = None
    if sampling.fine:
        edges = jnp.linspace(0.0, 1.0, coarse + 1)
        edges = jnp.broadcast_to(edges, (*first.shape[:-1], coarse + 1))
        density, dropped = _coarse_density(
            field, sampling, params, known, _at(rays, way(shares=first))
        )
        weights, _ = volume.ray_weights(density, way(shares=edges))
        likely = step_functions.smooth(weights, (1.0,) * sampling.kernel)
        quantiles = step_functions.quantiles(sampling.fine, u[..., 1:])
        shares = step_functions.invert(edges, jax.lax.stop_gradient(likely), quantiles)
        if sampling.guide is None:
            shares = step_functions.merge(first, shares)
        else:
            proposed = edges, weights
    ends = jnp.zeros_like(rays.forward), jnp.ones_like(rays.forward)
    if proposed is not None:
        # Without coarse points between them and the ends of the way, the outermost
        # fine ones stand for as much beyond as on their inner side.
        between = step_functions.midpoints(shares)
        begin = 2 * shares[..., 0] - between[..., 0]
        end = 2 * shares[..., -1] - between[..., -1]
        ends = jnp.maximum(begin, 0.0), jnp.minimum(end, 1.0)
    edges = step_functions.edges_around(shares, *ends)
    return Places(way(shares=shares), way(shares=edges), edges, proposed, dropped)


def _coarse_density(field, sampling, params, known, points):
    # [r n], that of a proposal with a gradient to the proposal alone; and how many
    # points [r] found no room, or None
    if sampling.guide is not None:
        raw, _ = raw_density(sampling.guide, params.proposal, points)
        density = density_of(sampling.guide, raw)
        return _where_occupied(field, known, points, density), None
    still = jax.lax.stop_gradient(params)

    def look(x, directions):
        del directions
        return raw_density(field, still, x, known.level_weights)[:1]

    (raw,), mask, counts = _look_where_occupied(
        field, sampling, known, points, None, look
    )
    density = density_of(field, raw)
    density = density if mask is None else jnp.where(mask, density, 0)
    return density, counts.get("dropped")


def _where_occupied(field, known, points, density):
    if known.occupied is None:
        return density
    mask = occupancy_grid.look_up(known.occupied, in_cube(field, points))
    return jnp.where(mask, density, 0)


def _look_where_occupied(field, sampling, known, points, directions, look):
    """(values [r n ...] each, which points [r n] were looked at (None: all), and counts
    by name) of look(points [... n 3], directions [... 3]) at points [r n 3]."""
    if known.occupied is None:
        return look(points, directions), None, {}
    mask = occupancy_grid.look_up(known.occupied, in_cube(field, points))
    counts = {"samples": jnp.sum(mask, axis=-1)}
    if sampling.room >= 1:
        return look(points, directions), mask, counts
    slots = take_slots(mask, math.ceil(sampling.room * mask.size))
    if directions is not None:
        directions = jnp.broadcast_to(directions[:, None], points.shape)
        directions = gather(slots, directions)
    values = look(gather(slots, points)[:, None], directions)
    values = [put_back(slots, value[:, 0]) for value in values]
    counts["dropped"] = jnp.sum(mask & ~slots.kept, axis=-1)
    return values, slots.kept, counts


def _at(rays: Rays, distances: Array) -> Array:
    along = distances[..., None] * rays.directions[..., None, :]
    return rays.origins[..., None, :] + along


def draw_points(
    field: Field, sampling: Sampling, params, known: Known, light, rays, places: Places
) -> Drawn:
    """What rays [r] see at `ray_points`. light: a shading.Light, or None for plain
    colours."""
    points, edges = _at(rays, places.distances), places.edges

    def look(x, directions):
        if sampling.normals is None:
            raw, encoded = raw_density(field, params, x, known.level_weights)
            return raw, colour_of(field, params, encoded, directions)
        (raw, encoded), normals = with_normals(
            field, params, x, known.level_weights, sampling.normals
        )
        return raw, colour_of(field, params, encoded, directions), normals

    (raw, rgb, *others), mask, counts = _look_where_occupied(
        field, sampling, known, points, rays.directions, look
    )
    if places.dropped is not None:
        counts["dropped"] += places.dropped
    normals = others[0] if others else None
    density = density_of(field, raw)
    if mask is not None:
        density = jnp.where(mask, density, 0)
    weights, opacity = volume.ray_weights(density, edges)
    if light is not None and normals is not None:
        rgb = shading.shade(light, rgb, normals, points)
    distance = volume.per_opacity(volume.along_ray(weights, places.distances), opacity)
    if normals is None:
        still, at = jax.lax.stop_gradient((params, _at(rays, distance[..., None])))
        _, normal = with_normals(field, still, at, known.level_weights, "analytic")
        normal = jnp.where((opacity > 0)[..., None], normal[..., 0, :], 0.0)
    else:
        normal = volume.per_opacity(volume.along_ray(weights, normals), opacity)
    return Drawn(
        rgb=volume.along_ray(weights, rgb),
        opacity=opacity,
        depth=distance * rays.forward,
        normal=normal,
        terms=counts | _terms(field, sampling, rays, weights, places, normals),
    )


def _terms(field, sampling, rays, weights, places, normals) -> dict[str, Array]:
    # each per-ray term that is asked for, [...]; of a way without end in its shares
    endless, terms = field.scene == "contracted", {}
    if "z_variance" in sampling.terms:
        z = places.distances * rays.forward[..., None]
        z = step_functions.midpoints(places.shares) if endless else z
        terms["z_variance"] = loss.ray_variance(weights, z)
    if "distortion" in sampling.terms:
        edges = places.shares if endless else places.edges
        terms["distortion"] = loss.ray_distortion(weights, edges)
    if "interlevel" in sampling.terms:
        terms["interlevel"] = step_functions.interlevel(
            places.shares, weights, *places.proposed
        )
    if "orientation" in sampling.terms:
        # Weights without gradient: the loss turns normals, it does not thin what
        # faces away.
        fixed = jax.lax.stop_gradient(weights)
        terms["orientation"] = loss.ray_orientation(fixed, normals, rays.directions)
    return terms


def in_chunks(draw, rays: Any, chunk: int) -> Any:
    """draw over rays, leaves [h w ...], at most `chunk` at once, one chunk after the
    other. Each has rays of the whole picture, so that what fills one part of it is
    spread over all; where rays are wanting, some are drawn twice.

    Every n-th ray, in rows that are each turned by .618 of their width against the one
    before: without that turn as many chunks as columns would be the columns.
    """
    shape = jax.tree.leaves(rays)[0].shape[:2]
    count = shape[0] * shape[1]
    rays = jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), rays)
    if count <= chunk:
        drawn = draw(rays)
    else:
        parts = -(-count // chunk)
        size = -(-count // parts)
        # the i-th ray in the new order is the (i // parts)-th of chunk i % parts
        index = _turned(shape, -1)[jnp.arange(parts * size) % count]
        index = index.reshape(size, parts).T
        drawn = jax.lax.map(draw, jax.tree.map(lambda a: a[index], rays))
        back = _turned(shape, 1)
        drawn = jax.tree.map(
            lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:])[back], drawn
        )
    return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), drawn)


def _turned(shape: tuple[int, int], way: int) -> Array:
    # [h w]: which ray comes at which place, row y being turned y times; -1 and 1 are
    # each other's inverse
    height, width = shape
    rows = jnp.arange(height)[:, None]
    columns = (jnp.arange(width) + way * round(0.618 * width) * rows) % width
    return (rows * width + columns).reshape(-1)
