"""What of an asset a page shows, as arrays on the host: splats, a mesh, or points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sdsjax.exports.density_grid import MeshError, Splats, living_splats, sample_field
from sdsjax.exports.mesh import Mesh, mesh_of_field
from sdsjax.representations.gaussians import Gaussians

# A browser sorts this many splats a frame without stutter.
MAX_SPLATS = 200_000
FAINTEST = 1 / 255
# Where a field has no surface yet, its points within this share of its densest.
SHARE = 0.3


class Points(NamedTuple):
    """Points [n 3] of the world, with colours [n 3] in [0, 1]."""

    means: np.ndarray
    colours: np.ndarray


Shape = Splats | Mesh | Points


def shape_of(asset: Any, *, resolution: int = 64, bound: float = 1.0) -> Shape:
    """Makes what a page shows of Gaussians, or of a field as a function of points.

    resolution: nodes a side of the grid on which a field is looked at, within `bound`
    world units. Splats beyond MAX_SPLATS are left out, the least visible first; an
    asset of which nothing can be seen is no points.
    """
    if isinstance(asset, Gaussians):
        try:
            return _most_visible(living_splats(asset, FAINTEST))
        except MeshError:
            return Points(np.zeros((0, 3)), np.zeros((0, 3)))
    look: Callable[..., Any] = asset
    try:
        return mesh_of_field(look, resolution=resolution, bound=bound)
    except MeshError:
        return _densest(look, resolution, bound)


def _most_visible(splats: Splats) -> Splats:
    if len(splats.means) <= MAX_SPLATS:
        return splats
    size = np.einsum("nii->ni", splats.covariances).max(axis=1)
    order = np.argsort(-splats.opacities * size)[:MAX_SPLATS]
    return Splats(*(values[order] for values in splats))


def _densest(look: Callable[..., Any], resolution: int, bound: float) -> Points:
    field = sample_field(look, resolution=resolution, bound=bound)
    dense = field.density > SHARE * max(float(field.density.max()), 1e-9)
    nodes = np.argwhere(dense)
    colours = field.colour(0, resolution)[:, dense].T if len(nodes) else nodes
    return Points(field.origin + field.step * nodes, np.clip(colours, 0.0, 1.0))
