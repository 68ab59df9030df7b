"""Initial clouds of Gaussians: their points and the spacing between them.

Notation: points [n 3] in the world, radius in world units, spacing: the side of the
cube that one of n points has to itself.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

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
