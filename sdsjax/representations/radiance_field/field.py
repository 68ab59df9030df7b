"""The density and colour of points, from a hash grid and two small networks.

Notation: points x [... 3] (world), f(x) their encoding (hash_grid.py), sigma density
per world unit, c colour in [0, 1], d direction of the ray:

    u = MLP(f(x)) + blob_scale (1 - |x| / blob_radius),   sigma = softplus(u) or exp(u),
    c = sigmoid(MLP(f(x), SH(d))).

The blob starts the density as a ball at the origin (Magic3D, arXiv 2211.10440, sec. 4;
DreamFusion, arXiv 2209.14988, app. A has a Gaussian one); a negative one starts it as a
hollow (ProlificDreamer, arXiv 2305.16213, for scenes). Colour depends on the direction
if `view_degree` > 0 (HiFA, arXiv 2305.18766, app. A.1).

`scene` says which points the grid covers: "box" the cube [-bound, bound]^3, and
"contracted" all of space, by the contraction C of scene_contraction.py. The blob's |x|
is then bound |C(x / bound)|, which stays finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.render import spherical_harmonics as sh
from sdsjax.representations.radiance_field import hash_grid
from sdsjax.representations.radiance_field.mlp import Dense, apply_mlp, init_mlp
from sdsjax.representations.radiance_field.scene_contraction import contract, uncontract

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "softplus": jax.nn.softplus,
    # 15: exp overflows nothing it is multiplied with; a density of 3e6 is solid
    "exp": lambda u: jnp.exp(jnp.minimum(u, 15.0)),
}
SCENES = ("box", "contracted")


class ProposalParams(NamedTuple):
    """The parameters of a proposal: tables and network of a density without colour.

    It only says where along a ray the field is evaluated (mip-NeRF 360, sec. 3).
    """

    tables: tuple[Array, ...]
    density: tuple[Dense, ...]


class NerfParams(NamedTuple):
    """The parameters that an optimizer changes.

    tables: one [T_l F] a level; density, color, background: networks (tuples of Dense);
    proposal: ProposalParams. The last two are empty where none is learnt.
    """

    tables: tuple[Array, ...]
    density: tuple[Dense, ...]
    color: tuple[Dense, ...]
    background: tuple[Dense, ...]
    proposal: ProposalParams | tuple[()] = ()


class NerfState(NamedTuple):
    """The state that changes with the step but is not optimised.

    level_weights [L]: the grid's progressive band; occupancy [r r r]: see
    occupancy_grid.py, empty where no such grid is kept.
    """

    level_weights: Array
    occupancy: Any = ()


class FieldSettings(NamedTuple):
    """The static settings of a field, as the module's docstring explains them.

    hidden: width of the networks; background_degree: degree of the spherical harmonics
    that a learnt background is made of (0: none).
    """

    grid: hash_grid.HashGrid
    bound: float
    hidden: int
    activation: str
    blob_scale: float
    blob_radius: float
    view_degree: int
    background_degree: int
    scene: str = "box"


def init_field(key: Array, field: FieldSettings) -> NerfParams:
    """Draws the initial parameters of a field, float32, without a proposal."""
    key_tables, key_density, key_color, key_background = jax.random.split(key, 4)
    width, hidden = field.grid.width, field.hidden
    direction_width = (field.view_degree + 1) ** 2 if field.view_degree else 0
    background_width = (field.background_degree + 1) ** 2
    return NerfParams(
        tables=hash_grid.init_tables(key_tables, field.grid),
        density=init_mlp(key_density, (width, hidden, 1)),
        color=init_mlp(key_color, (width + direction_width, hidden, 3)),
        background=init_mlp(key_background, (background_width, hidden, 3))
        if field.background_degree
        else (),
    )


def init_proposal(key: Array, field: FieldSettings) -> ProposalParams:
    """Draws the initial parameters of a proposal, float32."""
    key_tables, key_density = jax.random.split(key)
    return ProposalParams(
        hash_grid.init_tables(key_tables, field.grid),
        init_mlp(key_density, (field.grid.width, field.hidden, 1)),
    )


def world_to_unit_cube(field: FieldSettings, x: Array) -> Array:
    """Returns where in the unit cube the grid keeps points x [... 3] (world)."""
    if field.scene == "contracted":
        return contract(x / field.bound) / 4 + 0.5
    return (x / field.bound + 1) / 2


def unit_cube_to_world(field: FieldSettings, position: Array) -> Array:
    """Returns the points x [... 3] (world) at positions [... 3] in the unit cube."""
    if field.scene == "contracted":
        return field.bound * uncontract(4 * position - 2)
    return field.bound * (2 * position - 1)


def density_blob(field: FieldSettings, x: Array) -> Array:
    """Returns what u [...] begins with at points x [... 3]: the blob."""
    if not field.blob_scale:
        return jnp.zeros(x.shape[:-1], x.dtype)
    if field.scene == "contracted":
        x = field.bound * contract(x / field.bound)
    # 1e-12: the root's gradient at the origin stays finite
    length = jnp.sqrt(jnp.sum(x**2, axis=-1) + 1e-12)
    return field.blob_scale * (1 - length / field.blob_radius)


def raw_density(
    field: FieldSettings,
    params: NerfParams | ProposalParams,
    x: Array,
    level_weights: Array | None = None,
) -> tuple[Array, Array]:
    """Returns (u [...], encodings [... L F]) at points x [... 3]."""
    encoded = hash_grid.encode(
        params.tables,
        world_to_unit_cube(field, x),
        field.grid,
        level_weights=level_weights,
    )
    u = apply_mlp(params.density, encoded)[..., 0]
    return u + density_blob(field, x), encoded


def activate_density(field: FieldSettings, u: Array) -> Array:
    """Turns u [...] into the density sigma [...] per world unit."""
    return ACTIVATIONS[field.activation](u)


def colour(
    field: FieldSettings, params: NerfParams, encoded: Array, directions: Array
) -> Array:
    """Returns rgb [... n 3] of encodings [... n L F], seen along directions [... 3]."""
    if field.view_degree:
        basis = sh.basis(directions, field.view_degree)[..., None, :]
        shape = (*encoded.shape[:-1], basis.shape[-1])
        encoded = jnp.concatenate([encoded, jnp.broadcast_to(basis, shape)], axis=-1)
    return jax.nn.sigmoid(apply_mlp(params.color, encoded))


def background_colour(
    field: FieldSettings, params: NerfParams, directions: Array
) -> Array:
    """Returns the learnt background's rgb [... 3] along directions [... 3]."""
    basis = sh.basis(directions, field.background_degree)
    return jax.nn.sigmoid(apply_mlp(params.background, basis))


def query_field(
    field: FieldSettings, params: NerfParams, level_weights: Array | None, x: Array
) -> tuple[Array, Array]:
    """Returns (density [n] per world unit, rgb [n 3]) at points x [n 3], for exports.

    Colours are those seen by a viewer outside who looks at the origin.
    """
    u, encoded = raw_density(field, params, x, level_weights)
    length2 = jnp.sum(x**2, axis=-1, keepdims=True)
    inwards = -x * jax.lax.rsqrt(jnp.maximum(length2, 1e-12))
    rgb = colour(field, params, encoded[:, None], inwards)[:, 0]
    return activate_density(field, u), rgb
