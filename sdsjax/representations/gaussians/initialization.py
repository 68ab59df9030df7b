"""Initial clouds of Gaussians: their points and the spacing between them.

Notation: points [n 3] in the world, radius in world units, spacing: the side of the
cube that one of n points has to itself.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

Array = jax.Array
CLOUDS = ("ball", "shell")


def random_directions(key: Array, count: int) -> Array:
    """Draws unit vectors [n 3], uniform on the sphere."""
    normal = jax.random.normal(key, (count, 3))
    length = jnp.linalg.norm(normal, axis=-1, keepdims=True)
    return normal / jnp.maximum(length, 1e-12)


def random_cloud(key: Array, kind: str, count: int, radius: float) -> Array:
    """Draws points [n 3], uniform in the ball or on the shell of a radius.

    Raises ValueError on an unknown kind.
    """
    if kind not in CLOUDS:
        raise ValueError(f"init={kind!r}: allowed are {', '.join(CLOUDS)} or an array")
    key_direction, key_radius = jax.random.split(key)
    points = radius * random_directions(key_direction, count)
    if kind == "shell":
        return points
    return points * jax.random.uniform(key_radius, (count, 1)) ** (1 / 3)


def mean_spacing(kind: str, count: int, radius: float) -> float:
    """Returns the mean spacing of a cloud of n points (world units)."""
    if kind == "shell":
        return radius * math.sqrt(4 * math.pi / count)
    return radius * (4 / 3 * math.pi / count) ** (1 / 3)


def spacing_of_points(points: np.ndarray) -> float:
    """Returns the mean distance of given points [n 3] to their three nearest others.

    As in 3DGS (arXiv 2308.04079); a cloud of one point has the spacing 1.
    """
    near = min(3, len(points) - 1)
    if near < 1:
        return 1.0
    distances, _ = cKDTree(points).query(points, k=near + 1)
    return max(float(distances[:, 1:].mean()), 1e-6)


def extent_of_points(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the centre [3] of given points [n 3] and the radius that holds them.

    Two in a hundred may lie outside: scans have stray points.
    """
    low, high = np.quantile(points, (0.01, 0.99), axis=0)
    centre = 0.5 * (low + high)
    distances = np.linalg.norm(points - centre, axis=1)
    return centre, max(float(np.quantile(distances, 0.98)), 1e-12)


def fitted_points(points: np.ndarray, radius: float) -> np.ndarray:
    """Moves and scales points [n 3 or 6] so that a ball of `radius` holds them."""
    centre, extent = extent_of_points(points[:, :3])
    moved = (points[:, :3] - centre) * (radius / extent)
    return np.concatenate([moved, points[:, 3:]], axis=1).astype(points.dtype)
