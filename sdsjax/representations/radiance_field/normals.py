"""Normals of a field's points: the directions in which its density falls.

Notation: n = -grad u / |grad u| [... 3] (world) at points x [... 3]; u as in field.py.
As sigma rises with u, both gradients have one direction; that of u does not vanish
where nothing is.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from sdsjax.representations.radiance_field import hash_grid
from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    density_blob,
    raw_density,
    world_to_unit_cube,
)
from sdsjax.representations.radiance_field.mlp import apply_mlp

Array = jax.Array

NORMALS = ("analytic", "finite_difference")


def unit_normals(gradient: Array) -> Array:
    """Returns -g / |g| [... 3] of gradients g [... 3], 0 for a gradient of 0."""
    length2 = jnp.sum(gradient**2, axis=-1, keepdims=True)
    return -gradient * jax.lax.rsqrt(jnp.maximum(length2, 1e-20))


def finite_difference_step(
    field: FieldSettings, level_weights: Array | None
) -> Array | float:
    """Returns the step of finite differences, in world units.

    It is a cell of the finest level in use; in a contracted scene, one inside the unit
    ball. Source: Neuralangelo, arXiv 2306.03092, sec. 3.2.
    """
    side = (4 if field.scene == "contracted" else 2) * field.bound
    cells = [side / level.scale for level in field.grid.levels]
    if level_weights is None:
        return cells[-1]
    used = jnp.sum(level_weights > 0) - 1
    return jnp.asarray(cells)[jnp.clip(used, 0, len(cells) - 1)]


def density_and_normals(
    field: FieldSettings, params, x: Array, level_weights: Array | None, method: str
):
    """Returns ((u [...], encodings [... L F]), normals [... 3]) at points x [... 3].

    method: one of NORMALS: "analytic", by derivatives, or "finite_difference", by six
    more evaluations a `finite_difference_step` wide, which see past a cell's border.
    """
    if method == "analytic":
        return _analytic(field, params, x, level_weights)

    def at(x):
        return raw_density(field, params, x, level_weights)

    step, axes = finite_difference_step(field, level_weights), jnp.eye(3, dtype=x.dtype)
    differences = [at(x + step * axis)[0] - at(x - step * axis)[0] for axis in axes]
    return at(x), unit_normals(jnp.stack(differences, axis=-1))


def _analytic(field: FieldSettings, params, x: Array, level_weights: Array | None):
    # The chain rule by hand, from u down to x: the encoding's derivatives come with its
    # look-up, and the network is differentiated once instead of once an axis.
    position, to_world = jax.vjp(partial(world_to_unit_cube, field), x)
    encoded, jacobian = hash_grid.encode_with_jacobian(
        params.tables, position, field.grid, level_weights=level_weights
    )
    u, to_encoded = jax.vjp(lambda e: apply_mlp(params.density, e)[..., 0], encoded)
    (cotangent,) = to_encoded(jnp.ones_like(u))
    along_axes = [jnp.sum(cotangent * slope, -1) for slope in jacobian]
    (network_gradient,) = to_world(jnp.stack(along_axes, -1))
    blob, to_blob = jax.vjp(partial(density_blob, field), x)
    (blob_gradient,) = to_blob(jnp.ones_like(blob))
    return (u + blob, encoded), unit_normals(network_gradient + blob_gradient)
