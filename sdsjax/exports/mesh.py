"""A triangle mesh with colours from Gaussians or a radiance field.

The iso-surface of a density on a grid (`density_grid`). Its level is `level_scale`
times the `quantile` of the density at the splats' centres (weighted by opacity): the
centres say how dense "inside" is, so the level follows a sparse or a crowded cloud. The
defaults (0.1, 0.2) are near the largest volume overlap with the true solid for
Gaussians fitted to a house and a mug, the kinds tried. Cavities are filled:
distillation leaves the inside of an object empty, and a shell would otherwise come out
as two surfaces. Marching cubes: Lorensen and Cline, 1987 (scikit-image).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sdsjax.exports.density_grid import (
    Field,
    MeshError,
    density_field,
    living_splats,
    nodes_at,
    sample_field,
    trilinear,
)
from sdsjax.representations.gaussians import Gaussians

# The surface is sought in slabs of about so many nodes, so that only the density and
# what marks its cavities are kept of the whole grid.
SLAB_NODES = 1 << 21
# No key of a config sets a level: it follows what was trained, and the grid.
ADVICE = "train longer, or try another --config.exports.mesh_resolution"


class Mesh(NamedTuple):
    """A triangle mesh with a colour a vertex.

    vertices [n 3] world; faces [m 3] int, counter-clockwise seen from outside; colours
    [n 3] display values in [0, 1].
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


def iso_level(
    field: Field, gaussians: Gaussians, *, quantile: float, level_scale: float
) -> float:
    """Returns `level_scale` times a quantile of the density at the centres.

    Each centre is weighted by its opacity.
    """
    splats = living_splats(gaussians, 0.0)
    values = trilinear(field.density, nodes_at(splats.means, field))
    order = np.argsort(values)
    mass = np.cumsum(splats.opacities[order])
    at = min(np.searchsorted(mass, quantile * mass[-1]), len(order) - 1)
    return level_scale * float(values[order[at]])


class _Solid(NamedTuple):
    # [r r r] flags: nodes of cavities, and of components that are dropped, if any
    cavity: np.ndarray
    dropped: np.ndarray | None


def _solid(density: np.ndarray, level: float, largest_only: bool) -> _Solid:
    """Finds the cavities and, if asked for, the largest component, of a density."""
    from skimage import measure

    below = np.pad(density < level, 1, constant_values=True)
    labels = np.asarray(measure.label(below, connectivity=1))
    del below
    outside = labels[0, 0, 0]
    cavity = np.empty(density.shape, bool)
    for plane, label in zip(cavity, labels[1:-1, 1:-1, 1:-1]):
        plane[:] = (label > 0) & (label != outside)
    del labels
    if not largest_only:
        return _Solid(cavity, None)
    parts = np.asarray(measure.label((density >= level) | cavity))
    sizes = np.zeros(int(parts.max()) + 1, int)
    for plane in parts:
        sizes += np.bincount(plane.ravel(), minlength=len(sizes))
    parts[parts == 1 + sizes[1:].argmax()] = 0
    return _Solid(cavity, parts > 0)


def extract_mesh(
    gaussians: Gaussians,
    *,
    resolution: int = 96,
    quantile: float = 0.1,
    level_scale: float = 0.2,
    largest_only: bool = False,
) -> Mesh:
    """The iso-surface of the splats' density, closed, with a colour a vertex.

    Raises MeshError, naming the density range, when nothing crosses the level.
    """
    field = density_field(gaussians, resolution=resolution)
    level = iso_level(field, gaussians, quantile=quantile, level_scale=level_scale)
    low, high = float(field.density.min()), float(field.density.max())
    if not low < level < high:
        raise MeshError(
            f"no surface at density {level:.3g}: the density runs from {low:.3g} to "
            f"{high:.3g}; {ADVICE}"
        )
    return _surface(field, level, largest_only)


def mesh_of_field(
    look: Callable,
    *,
    resolution: int = 96,
    bound: float = 1.0,
    level: float = 10.0,
    largest_only: bool = False,
) -> Mesh:
    """The iso-surface of a radiance field's density, closed, with a colour a vertex.

    look: as in `sample_field`; level: density per world unit, at most half of the
    largest there is: 10 hides what lies a tenth of a unit behind by 1 / e.
    Raises MeshError, naming the density range, for a field that is empty or even.
    """
    field = sample_field(look, resolution=resolution, bound=bound)
    low, high = float(field.density.min()), float(field.density.max())
    level = min(level, 0.5 * high)
    if not low < level < high:
        raise MeshError(
            f"no surface at density {level:.3g}: the density runs from {low:.3g} to "
            f"{high:.3g}; {ADVICE}"
        )
    return _surface(field, level, largest_only)


def _surface(field: Field, level: float, largest_only: bool) -> Mesh:
    """Runs marching cubes at a level that the density crosses, a slab at a time.

    Slabs share a plane of nodes, and the vertices on it, which are joined.
    """
    resolution = len(field.density)
    solid = _solid(field.density, level, largest_only)
    thick = slab_planes(resolution)
    pieces: list[Mesh] = []
    count, border = 0, (np.zeros((0, 3), np.float32), np.zeros(0, int))
    # A margin of empty nodes, -1 and `resolution`, closes what touches the border.
    for first in range(-1, resolution, thick):
        last = min(first + thick, resolution)
        found = _slab(field, solid, level, first, last)
        if found is None:
            border = border[0][:0], border[1][:0]
            continue
        vertices, faces = found
        names = count + np.arange(len(vertices))
        begun = np.flatnonzero(vertices[:, 0] == first)
        both = np.concatenate([border[0], vertices[begun]])
        _, unique, place = np.unique(
            both, axis=0, return_index=True, return_inverse=True
        )
        old = np.concatenate([border[1], names[begun]])
        names[begun] = old[unique[place.ravel()]][len(border[0]) :]
        ended = vertices[:, 0] == last
        border = vertices[ended], names[ended]
        world = field.origin + field.step * vertices
        colours = _blended(field, world, first, last)
        faces = names[faces].astype(np.int32)
        pieces.append(Mesh(world.astype(np.float32), faces, colours))
        count += len(vertices)
    return _joined(pieces)


def slab_planes(resolution: int) -> int:
    """Counts the planes of nodes that the surface is sought in at a time."""
    return max(1, SLAB_NODES // resolution**2)


def extraction_bytes(resolution: int) -> int:
    """Bounds the memory that a mesh's extraction takes, in bytes.

    Measured: 9 a node while cavities are sought; then 5, besides 40 a node of a slab
    and 180 a vertex, of which a loose cloud of splats has 22 resolution^2, an object 4.
    """
    planes = min(slab_planes(resolution), resolution) + 2
    nodes, square = (resolution + 2) ** 3, resolution**2
    return max(9 * nodes, 5 * nodes + (40 * planes + 180 * 22) * square)


def _slab(
    field: Field, solid: _Solid, level: float, first: int, last: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the (vertices, faces) between two planes of nodes, or None.

    Vertices are counted in nodes of the whole grid; cavities are filled.
    """
    from skimage import measure

    resolution = len(field.density)
    low, high = max(first, 0), min(last + 1, resolution)
    inside = field.density[low:high]
    inside = np.where(solid.cavity[low:high], np.maximum(inside, 2 * level), inside)
    if solid.dropped is not None:
        inside[solid.dropped[low:high]] = 0.0
    values = np.zeros((last + 1 - first, *(resolution + 2,) * 2), np.float32)
    values[low - first : high - first, 1:-1, 1:-1] = inside
    if not values.min() <= level < values.max():
        return None
    vertices, faces, _, _ = measure.marching_cubes(
        values, level, gradient_direction="ascent"
    )
    return vertices.astype(np.float64) + np.array([first, -1, -1]), faces


def _blended(field: Field, world: np.ndarray, first: int, last: int) -> np.ndarray:
    """Blends colours at points between two planes, trilinear, weighted by density."""
    at = nodes_at(world, field)
    low, high = max(first, 0), min(last + 2, len(field.density))
    # The margin's vertices lie in the outermost cells.
    low = min(low, int(at[:, 0].min()))
    weight = np.maximum(field.density[low:high], 0.0)
    colour = field.colour(low, high)
    at -= (low, 0, 0)
    blend = np.maximum(trilinear(weight, at), 1e-12)
    colours = [trilinear(weight * channel, at) / blend for channel in colour]
    return np.clip(np.stack(colours, axis=1), 0, 1)


def _joined(pieces: list[Mesh]) -> Mesh:
    """Joins slabs into one mesh, and drops vertices that no face names any more."""
    vertices, faces, colours = (np.concatenate(column) for column in zip(*pieces))
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    names = np.cumsum(used, dtype=np.int32) - 1
    return Mesh(vertices[used], names[faces], colours[used])
