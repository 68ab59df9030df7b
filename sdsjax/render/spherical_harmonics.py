"""Real spherical harmonics of degree 0 to 3 and the colour they stand for.

Notation: directions d = (x, y, z) [..., 3], unit, from the camera to the point, world
frame; coefficients [..., k, 3] with k = 1, 4, 9 or 16 in the order (l, m) = (0, 0),
(1, -1), (1, 0), (1, 1), (2, -2), ...; colour in [0, inf). Signs (Condon-Shortley phase
included) and the 0.5 offset are those of 3D Gaussian splatting (Kerbl et al. 2023,
arXiv 2308.04079).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array

C0 = math.sqrt(1 / (4 * math.pi))
_C1 = math.sqrt(3 / (4 * math.pi))
_C2 = (math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi)))
_C3 = (
    math.sqrt(35 / (32 * math.pi)),
    math.sqrt(105 / (4 * math.pi)),
    math.sqrt(21 / (32 * math.pi)),
    math.sqrt(7 / (16 * math.pi)),
)


def degree_of(count: int) -> int:
    """Returns the degree whose basis has `count` functions.

    Raises ValueError if none has.
    """
    degree = {1: 0, 4: 1, 9: 2, 16: 3}.get(count)
    if degree is None:
        raise ValueError(
            f"{count} spherical-harmonics coefficients: allowed are 1, 4, 9 or 16 "
            "(degree 0, 1, 2 or 3)"
        )
    return degree


def basis(directions: Array, degree: int) -> Array:
    """Evaluates the real SH basis [..., (degree + 1)^2] at unit directions [..., 3]."""
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    xx, yy, zz = x * x, y * y, z * z
    terms = [jnp.full_like(x, C0)]
    if degree >= 1:
        terms += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        a, b = _C2
        terms += [a * x * y, -a * y * z, b * (2 * zz - xx - yy), -a * x * z]
        terms += [0.5 * a * (xx - yy)]
    if degree >= 3:
        a, b, c, d = _C3
        terms += [-a * y * (3 * xx - yy), b * x * y * z, -c * y * (4 * zz - xx - yy)]
        terms += [d * z * (2 * zz - 3 * xx - 3 * yy), -c * x * (4 * zz - xx - yy)]
        terms += [0.5 * b * z * (xx - yy), -a * x * (xx - 3 * yy)]
    return jnp.stack(terms, axis=-1)


def colour(coefficients: Array, directions: Array) -> Array:
    """Returns the colours max(SH + 0.5, 0) [n, 3] of coefficients seen along [n, 3].

    coefficients: [n, k, 3].
    """
    degree = degree_of(coefficients.shape[-2])
    if degree == 0:
        return jnp.maximum(C0 * coefficients[..., 0, :] + 0.5, 0.0)
    weights = basis(directions, degree)
    return jnp.maximum(jnp.sum(weights[..., None] * coefficients, axis=-2) + 0.5, 0.0)


def coefficient_of_colour(rgb: Array) -> Array:
    """Returns the degree-0 coefficients [..., 3] that show rgb [..., 3]."""
    return (rgb - 0.5) / C0
