"""Density and colour of Gaussians or a radiance field at the nodes of a grid.

Grid `[r r r]` over a cube that holds the splats, in world units:

    d(p) = sum_i o_i exp(-1/2 (p - m_i)^T Sigma_i^-1 (p - m_i)),  Sigma = R S S^T R^T
    c(p) = sum_i o_i G_i(p) colour_i / d(p)

o: opacity, colour: the view-independent SH term + 0.5, in display (sRGB) values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from sdsjax.representations.gaussians import Gaussians

SH_C0 = 0.28209479177387814
# Beyond 3 standard deviations a Gaussian adds less than 1.2% of its peak.
CUTOFF = 3.0


class MeshError(ValueError):
    """No surface could be extracted; the message names the density range."""


class Field(NamedTuple):
    """A field is density and colour at the nodes of a grid.

    density [r r r]; colour: (first, last) -> display values [3 n r r] of the n planes
    first <= i < last, zero where nothing is: those of the whole grid would take three
    times the density's memory; origin [3] and step: node (i, j, k) stands at origin +
    step * (i, j, k).
    """

    density: np.ndarray
    colour: Callable[[int, int], np.ndarray]
    origin: np.ndarray
    step: float


class Splats(NamedTuple):
    """What of n splats a mesh is made of, float64 on the host.

    means [n 3] world; opacities [n]; colours [n 3] display values; covariances [n 3 3].
    """

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


def living_splats(gaussians: Gaussians, min_opacity: float) -> Splats:
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
    return Splats(host["means"][keep], opacities[keep], colours, covariances)


def density_field(
    gaussians: Gaussians, *, resolution: int = 96, min_opacity: float = 0.05
) -> Field:
    """Sums the splats on a grid of `resolution` nodes a side, as in the module's text.

    Each splat is added to the nodes within CUTOFF standard deviations, at least to
    those around it: it is widened to half a node, so that thin splats are not missed.
    Raises MeshError when no splat is opaque enough.
    """
    splats = living_splats(gaussians, min_opacity)
    sigmas = np.sqrt(np.einsum("nii->ni", splats.covariances))
    low = np.quantile(splats.means - 2 * sigmas, 0.002, axis=0)
    high = np.quantile(splats.means + 2 * sigmas, 0.998, axis=0)
    half = 0.5 * float((high - low).max()) * 1.08 + 1e-3
    step = 2 * half / (resolution - 1)
    origin = 0.5 * (low + high) - half
    density = np.zeros((resolution,) * 3, np.float32)
    weights_of = partial(_splat_weights, splats, origin, step, resolution)
    for _, box, weights in weights_of(0, resolution):
        density[box] += weights
    colours = splats.colours.astype(np.float32)

    def colour(first: int, last: int) -> np.ndarray:
        planes = np.zeros((3, last - first, *density.shape[1:]), np.float32)
        for index, box, weights in weights_of(first, last):
            for channel, value in zip(planes, colours[index]):
                channel[box] += weights * value
        return planes / np.maximum(density[first:last], 1e-12)

    return Field(density, colour, origin, step)


def _splat_weights(
    splats: Splats, origin, step: float, resolution: int, first: int, last: int
) -> Iterator[tuple[int, tuple[slice, ...], np.ndarray]]:
    """Yields every splat that reaches planes first <= i < last of the grid.

    As (its index, the box of nodes that it reaches counted from plane `first`, its
    weights there), one at a time: memory is that of a box, however many splats there
    are and however far they reach.
    """
    widened = splats.covariances + (0.5 * step) ** 2 * np.eye(3)
    precisions = np.linalg.inv(widened).astype(np.float32)
    centres = (splats.means - origin) / step
    reach = CUTOFF * np.sqrt(np.einsum("nii->ni", widened)) / step
    begin = np.array([first, 0, 0])
    end = np.array([last, resolution, resolution])
    low = np.clip(np.ceil(centres - reach), begin, end).astype(int)
    high = np.clip(np.floor(centres + reach) + 1, begin, end).astype(int)
    opacities = splats.opacities.astype(np.float32)
    for index in np.flatnonzero((high > low).all(axis=1)):
        x, y, z = (
            ((np.arange(a, b) - centre) * step).astype(np.float32)
            for a, b, centre in zip(low[index], high[index], centres[index])
        )
        a = precisions[index]
        x, y = x[:, None], y[None, :]
        plane = (a[0, 0] * x * x + a[1, 1] * y * y + 2 * a[0, 1] * x * y)[:, :, None]
        power = (2 * (a[0, 2] * x + a[1, 2] * y))[:, :, None] * z
        power += plane
        power += a[2, 2] * z * z
        near = power < CUTOFF**2
        power *= -0.5
        weights = np.exp(power, out=power)
        weights *= near
        weights *= opacities[index]
        box = tuple(map(slice, low[index] - begin, high[index] - begin))
        yield int(index), box, weights


def nodes_at(points: np.ndarray, field: Field) -> np.ndarray:
    """Returns points [n 3] in steps of the grid, kept inside its cells."""
    at = (points - field.origin) / field.step
    return np.clip(at, 0.0, np.array(field.density.shape) - 1.001)


def trilinear(grid: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Reads a grid [x y z] trilinearly at [n 3], counted in its nodes."""
    low = at.astype(int)
    part = at - low
    total = np.zeros(len(at))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        total = total + weight * grid[tuple((low + corner).T)]
    return total


def sample_field(look: Callable, *, resolution: int = 96, bound: float = 1.0) -> Field:
    """A radiance field at the nodes of a grid over the cube [-bound, bound]^3.

    look: points [n 3] -> (density [n] per world unit, rgb [n 3]); it is asked for a
    plane of nodes at a time, and again for the colours of planes near the surface.
    """
    axis = np.linspace(-bound, bound, resolution, dtype=np.float32)

    def plane(index: int):
        nodes = np.meshgrid(axis[index], axis, axis, indexing="ij")
        return look(np.stack(nodes, axis=-1).reshape(-1, 3))

    density = np.empty((resolution,) * 3, np.float32)
    for index in range(resolution):
        density[index] = np.asarray(plane(index)[0]).reshape(density.shape[1:])

    def colour(first: int, last: int) -> np.ndarray:
        rgb = [np.asarray(plane(i)[1], np.float64) for i in range(first, last)]
        return np.moveaxis(np.stack(rgb).reshape(-1, *density.shape[1:], 3), -1, 0)

    step = 2 * bound / (resolution - 1)
    return Field(np.nan_to_num(density), colour, np.full(3, -bound), step)
