"""A triangle mesh with colours from Gaussians or a radiance field.

Field (world units, grid `[r r r]` over a cube that holds the splats):

    d(p) = sum_i o_i exp(-1/2 (p - m_i)^T Sigma_i^-1 (p - m_i)),  Sigma = R S S^T R^T
    c(p) = sum_i o_i G_i(p) colour_i / d(p)

o: opacity, colour: the view-independent SH term + 0.5, in display (sRGB) values. The
iso-level is `level_scale` times the `quantile` of d at the splats' centres (weighted by
opacity): the centres say how dense "inside" is, so the level follows a sparse or a
crowded cloud. The defaults (0.1, 0.2) are near the largest volume overlap with the true
solid for Gaussians fitted to a house and a mug, the kinds tried. Cavities are filled:
distillation leaves the inside of an object empty, and a shell would otherwise come out
as two surfaces. Marching cubes: Lorensen and Cline, 1987 (scikit-image).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sdsjax.representations.gaussians import Gaussians

SH_C0 = 0.28209479177387814
# Beyond 3 standard deviations a Gaussian adds less than 1.2% of its peak.
CUTOFF = 3.0
# No key of a config sets a level: it follows what was trained, and the grid.
ADVICE = "train longer, or try another --config.exports.mesh_resolution"


class MeshError(ValueError):
    """No surface could be extracted; the message names the density range."""


class Field(NamedTuple):
    """A field is density and colour at the nodes of a grid.

    density [r r r]; colour [r r r 3], display values, zero where nothing is;
    origin [3] and step: node (i, j, k) stands at origin + step * (i, j, k)."""

    density: np.ndarray
    colour: np.ndarray
    origin: np.ndarray
    step: float


class Mesh(NamedTuple):
    """A triangle mesh with a colour a vertex.

    vertices [n 3] world; faces [m 3] int, counter-clockwise seen from outside; colours
    [n 3] display values in [0, 1].
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


class _Splats(NamedTuple):
    means: np.ndarray
    opacities: np.ndarray
    colours: np.ndarray
    covariances: np.ndarray


def rotation_matrices(quats: np.ndarray) -> np.ndarray:
    """Turns quaternions w x y z `[n 4]`, of any length, into rotations `[n 3 3]`."""
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _splats(gaussians: Gaussians, min_opacity: float) -> _Splats:
    """Copies the splats that are alive, finite and not negligible to the host."""
    host = {k: np.asarray(v, np.float64) for k, v in gaussians._asdict().items()}
    opacities = 1.0 / (1.0 + np.exp(-host["opacity_logits"].reshape(-1)))
    usable = (host["alive"] > 0) & np.isfinite(host["means"]).all(axis=1)
    keep = usable & (opacities >= min_opacity)
    if not keep.any():
        top = float(opacities[usable].max(initial=0.0))
        raise MeshError(
            f"no splat is opaque enough for a mesh: opacities reach {top:.3g}, "
            f"{min_opacity:.3g} is needed; train longer"
        )
    rotations = rotation_matrices(host["quats"][keep])
    axes = rotations * np.exp(host["log_scales"][keep])[:, None, :]
    colours = np.clip(SH_C0 * host["sh"][keep, 0] + 0.5, 0.0, 1.0)
    covariances = axes @ axes.transpose(0, 2, 1)
    return _Splats(host["means"][keep], opacities[keep], colours, covariances)


def density_field(
    gaussians: Gaussians, *, resolution: int = 96, min_opacity: float = 0.05
) -> Field:
    """Sums the splats on a grid of `resolution` nodes a side, as in the module's text.

    Each splat is added to the nodes within CUTOFF standard deviations, at least to
    those around it: it is widened to half a node, so that thin splats are not missed.
    Raises MeshError when no splat is opaque enough.
    """
    splats = _splats(gaussians, min_opacity)
    sigmas = np.sqrt(np.einsum("nii->ni", splats.covariances))
    low = np.quantile(splats.means - 2 * sigmas, 0.002, axis=0)
    high = np.quantile(splats.means + 2 * sigmas, 0.998, axis=0)
    half = 0.5 * float((high - low).max()) * 1.08 + 1e-3
    step = 2 * half / (resolution - 1)
    origin = 0.5 * (low + high) - half
    density = np.zeros((resolution,) * 3, np.float32)
    colour = np.zeros((resolution,) * 3 + (3,), np.float32)
    _add_splats(density, colour, splats, origin, step)
    colour /= np.maximum(density, 1e-12)[..., None]
    return Field(density, colour, origin, step)


def _add_splats(density, colour, splats: _Splats, origin, step: float) -> None:
    """Adds every splat to the nodes of its own box, in place: memory is that of the
    grid, however many splats there are and however far they reach."""
    widened = splats.covariances + (0.5 * step) ** 2 * np.eye(3)
    precisions = np.linalg.inv(widened).astype(np.float32)
    centres = (splats.means - origin) / step
    reach = CUTOFF * np.sqrt(np.einsum("nii->ni", widened)) / step
    last = np.array(density.shape) - 1
    first = np.clip(np.ceil(centres - reach), 0, last + 1).astype(int)
    stop = np.clip(np.floor(centres + reach) + 1, 0, last + 1).astype(int)
    opacities = splats.opacities.astype(np.float32)
    colours = splats.colours.astype(np.float32)
    for index in np.flatnonzero((stop > first).all(axis=1)):
        x, y, z = (
            ((np.arange(low, high) - centre) * step).astype(np.float32)
            for low, high, centre in zip(first[index], stop[index], centres[index])
        )
        a = precisions[index]
        x, y = x[:, None], y[None, :]
        power = (a[0, 0] * x * x + a[1, 1] * y * y + 2 * a[0, 1] * x * y)[:, :, None]
        power = power + (2 * (a[0, 2] * x + a[1, 2] * y))[:, :, None] * z
        power += a[2, 2] * z * z
        weights = np.where(power < CUTOFF**2, np.exp(-0.5 * power), np.float32(0))
        weights *= opacities[index]
        box = tuple(map(slice, first[index], stop[index]))
        density[box] += weights
        colour[box] += weights[..., None] * colours[index]


def _sample(grid: np.ndarray, points: np.ndarray, field: Field) -> np.ndarray:
    """Reads a grid [r r r ...] at world points [n 3], trilinearly."""
    at = (points - field.origin) / field.step
    at = np.clip(at, 0.0, np.array(grid.shape[:3]) - 1.001)
    low = at.astype(int)
    part = at - low
    total = np.zeros((len(points), *grid.shape[3:]))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        values = grid[tuple((low + corner).T)]
        total = total + weight.reshape((-1,) + (1,) * (values.ndim - 1)) * values
    return total


def iso_level(
    field: Field, gaussians: Gaussians, *, quantile: float, level_scale: float
) -> float:
    """Returns `level_scale` times a quantile of the density at the centres.

    Each centre is weighted by its opacity.
    """
    splats = _splats(gaussians, 0.0)
    values = _sample(field.density, splats.means, field)
    order = np.argsort(values)
    mass = np.cumsum(splats.opacities[order])
    at = min(np.searchsorted(mass, quantile * mass[-1]), len(order) - 1)
    return level_scale * float(values[order[at]])


def _solid(density: np.ndarray, level: float, largest_only: bool) -> np.ndarray:
    """The density with cavities raised above the level and, if asked for, with every
    component but the largest lowered below it."""
    from skimage import measure

    below = np.pad(density < level, 1, constant_values=True)
    outside = np.asarray(measure.label(below, connectivity=1))
    core = outside[1:-1, 1:-1, 1:-1]
    cavity = (core > 0) & (core != outside[0, 0, 0])
    density = np.where(cavity, np.maximum(density, 2 * level), density)
    if largest_only:
        parts = np.asarray(measure.label(density >= level))
        sizes = np.bincount(parts.ravel())[1:]
        if len(sizes) > 1:
            density = np.where(parts == 1 + sizes.argmax(), density, 0.0)
    return density


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


def sample_field(look: Callable, *, resolution: int = 96, bound: float = 1.0) -> Field:
    """A radiance field at the nodes of a grid over the cube [-bound, bound]^3.

    look: points [n 3] -> (density [n] per world unit, rgb [n 3]).
    """
    axis = np.linspace(-bound, bound, resolution, dtype=np.float32)
    slabs = []
    for x in axis:  # a slab at a time: the points of all would not fit
        nodes = np.meshgrid(x, axis, axis, indexing="ij")
        drawn = look(np.stack(nodes, axis=-1).reshape(-1, 3))
        slabs.append([np.asarray(a, np.float64) for a in drawn])
    density, colour = (np.stack(column) for column in zip(*slabs))
    shape = (resolution,) * 3
    step = 2 * bound / (resolution - 1)
    return Field(
        np.nan_to_num(density).reshape(shape),
        colour.reshape(*shape, 3),
        np.full(3, -bound),
        step,
    )


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
    """Runs marching cubes at a level that the density crosses; colours are a trilinear
    blend, weighted by density."""
    from skimage import measure

    # A margin of empty nodes closes what touches the border of the grid.
    solid = np.pad(_solid(field.density, level, largest_only), 1)
    vertices, faces, _, _ = measure.marching_cubes(
        solid, level, gradient_direction="ascent"
    )
    world = field.origin + field.step * (vertices - 1.0)
    weight = np.maximum(field.density, 0.0)
    blend = _sample(weight, world, field)[:, None]
    colours = _sample(weight[..., None] * field.colour, world, field)
    colours = colours / np.maximum(blend, 1e-12)
    return Mesh(world.astype(np.float32), faces, np.clip(colours, 0, 1))
