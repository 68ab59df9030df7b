"""Shading of a field's colours by a light that is drawn anew for every view.

Notation: albedo rho [... 3] in [0, 1], normal n, a point light at l with diffuse and
ambient shares (DreamFusion, arXiv 2209.14988, sec. 3.1, "Shading"):

    c = rho (diffuse max(0, n . (l - x) / |l - x|) + ambient).

"plain" is diffuse 0, ambient 1; "textureless" puts 1 in the place of rho, so that
geometry cannot hide behind colour. The light stands within 60 degrees of the camera, at
0.8 to 1.5 times its distance from the origin.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

DIFFUSE, AMBIENT = 0.9, 0.1
MAX_ANGLE = math.pi / 3


class Light(NamedTuple):
    """A point light and how it shades.

    position [3] (world); diffuse, ambient []; textured []: 1, or 0 for white surfaces.
    """

    position: Array
    diffuse: Array
    ambient: Array
    textured: Array


def light_position(key: Array, eye: Array) -> Array:
    """Draws a position [3] within 60 degrees of the eye [3], seen from the origin."""
    key_side, key_angle, key_distance = jax.random.split(key, 3)
    distance = jnp.linalg.norm(eye)
    towards = eye / distance
    side = jax.random.normal(key_side, (3,), eye.dtype)
    side -= jnp.dot(side, towards) * towards
    side /= jnp.linalg.norm(side)
    angle = jax.random.uniform(key_angle, (), eye.dtype, 0.0, MAX_ANGLE)
    factor = jax.random.uniform(key_distance, (), eye.dtype, 0.8, 1.5)
    return factor * distance * (jnp.cos(angle) * towards + jnp.sin(angle) * side)


def draw_light(key: Array, eye: Array, *, lambertian: float, textureless: float):
    """Draws the light of one view.

    With these probabilities the view is shaded, or shaded without texture; else plain.
    """
    key_kind, key_position = jax.random.split(key)
    uniform = jax.random.uniform(key_kind, (), eye.dtype)
    shaded = uniform < lambertian + textureless
    return Light(
        position=light_position(key_position, eye),
        diffuse=jnp.where(shaded, DIFFUSE, 0.0),
        ambient=jnp.where(shaded, AMBIENT, 1.0),
        textured=jnp.where(uniform < textureless, 0.0, 1.0),
    )


def shade(light: Light, albedo: Array, normals: Array, points: Array) -> Array:
    """Returns the shaded rgb [... 3] of points, albedo and normals [... 3]."""
    offset = light.position - points
    # 1e-12: a point at the light itself is lit from nowhere
    length2 = jnp.sum(offset**2, axis=-1, keepdims=True)
    towards = offset * jax.lax.rsqrt(jnp.maximum(length2, 1e-12))
    facing = jnp.maximum(jnp.sum(normals * towards, axis=-1, keepdims=True), 0)
    texture = light.textured * albedo + (1 - light.textured)
    return texture * (light.diffuse * facing + light.ambient)
