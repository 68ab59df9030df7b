"""A density and a colour for every point: hash grid and two small networks.

Notation: points x [... 3] (world), f(x) their encoding (hash_grid.py), sigma density
per world unit, c colour in [0, 1]:

    u = MLP(f(x)) + blob_scale (1 - |x| / blob_radius),   sigma = softplus(u) or exp(u),
    c = sigmoid(MLP(f(x), SH(d))),    n = -grad u / |grad u|.

The blob starts the density as a ball at the origin (Magic3D, arXiv 2211.10440, sec. 4;
DreamFusion, arXiv 2209.14988, app. A has a Gaussian one), a negative one as a hollow
(ProlificDreamer, arXiv 2305.16213, for scenes). As sigma rises with u, both gradients
have one direction; that of u does not vanish where nothing is. Colour depends on the
direction d of the ray if `view_degree` > 0 (HiFA, arXiv 2305.18766, app. A.1).

`scene` says which points the grid covers: "box" the cube [-bound, bound]^3;
"contracted" all of space, by mip-NeRF 360's contraction (arXiv 2111.12077, eq. 10) of
y = x / bound into the ball of radius 2: C(y) = y where |y| <= 1, else y (2 - 1 / |y|) /
|y|. The blob's |x| is then bound |C(x / bound)|, which stays finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.render import spherical_harmonics as sh
from sdsjax.representations.radiance_field import hash_grid

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "softplus": jax.nn.softplus,
    # 15: exp overflows nothing it is multiplied with; a density of 3e6 is solid
    "exp": lambda u: jnp.exp(jnp.minimum(u, 15.0)),
}
NORMALS = ("analytic", "finite_difference")
SCENES = ("box", "contracted")


class Dense(NamedTuple):
    """An affine map: kernel [in out], bias [out]."""

    kernel: Array
    bias: Array


class NerfParams(NamedTuple):
    """What is learnt: tables, one [T_l F] a level; density, color, background: networks
    (tuples of Dense); proposal: a Guide. The last two are empty where none is learnt.
    """

    tables: tuple[Array, ...]
    density: tuple[Dense, ...]
    color: tuple[Dense, ...]
    background: tuple[Dense, ...]
    proposal: Guide | tuple[()] = ()


class Guide(NamedTuple):
    """Tables and network of a density alone, which says where to look (mip-NeRF 360,
    sec. 3)."""

    tables: tuple[Array, ...]
    density: tuple[Dense, ...]


class NerfState(NamedTuple):
    """What is not learnt: level_weights [L], the grid's progressive band; occupancy
    [r r r], see occupancy_grid.py, empty where none is kept."""

    level_weights: Array
    occupancy: Any = ()


class Field(NamedTuple):
    """The static settings of a field; see the module's text."""

    grid: hash_grid.Grid
    bound: float
    hidden: int
    activation: str
    blob_scale: float
    blob_radius: float
    view_degree: int
    background_degree: int
    scene: str = "box"


def init_network(key: Array, sizes: tuple[int, ...]) -> tuple[Dense, ...]:
    """Layers of these sizes, He's uniform kernels (arXiv 1502.01852), zero biases."""
    keys = jax.random.split(key, len(sizes) - 1)

    def layer(key, before, after):
        span = math.sqrt(6 / before)
        kernel = jax.random.uniform(key, (before, after), minval=-span, maxval=span)
        return Dense(kernel, jnp.zeros(after))

    return tuple(map(layer, keys, sizes[:-1], sizes[1:]))


def apply_network(layers: tuple[Dense, ...], x: Array) -> Array:
    """[... in] -> [... out]; relu between the layers."""
    # As one list of points: with two leading axes XLA's gradients take twice as long
    # on a CPU.
    flat = x.reshape(-1, x.shape[-1])
    for layer in layers[:-1]:
        flat = jax.nn.relu(flat @ layer.kernel + layer.bias)
    flat = flat @ layers[-1].kernel + layers[-1].bias
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


def init_field(key: Array, field: Field) -> NerfParams:
    """Parameters of a field, float32, without a proposal."""
    key_tables, key_density, key_color, key_background = jax.random.split(key, 4)
    width, hidden = field.grid.width, field.hidden
    seen = (field.view_degree + 1) ** 2 if field.view_degree else 0
    behind = (field.background_degree + 1) ** 2
    return NerfParams(
        tables=hash_grid.init_tables(key_tables, field.grid),
        density=init_network(key_density, (width, hidden, 1)),
        color=init_network(key_color, (width + seen, hidden, 3)),
        background=init_network(key_background, (behind, hidden, 3))
        if field.background_degree
        else (),
    )


def init_guide(key: Array, field: Field) -> Guide:
    """Parameters of a field of density alone, float32."""
    key_tables, key_density = jax.random.split(key)
    return Guide(
        hash_grid.init_tables(key_tables, field.grid),
        init_network(key_density, (field.grid.width, field.hidden, 1)),
    )


def contract(y: Array) -> Array:
    """C(y) [... 3], in the ball of radius 2, of points y [... 3]; see the module."""
    length = jnp.sqrt(jnp.maximum(jnp.sum(y**2, axis=-1, keepdims=True), 1.0))
    return (2 - 1 / length) / length * y


def expand(c: Array, *, most: float = 1e3) -> Array:
    """The points y [... 3] whose contraction is c [... 3], at most `most` away."""
    length = jnp.sqrt(jnp.maximum(jnp.sum(c**2, axis=-1, keepdims=True), 1.0))
    return c / (length * jnp.maximum(2 - length, 1 / most))


def in_cube(field: Field, x: Array) -> Array:
    """Where the grid keeps points x [... 3] (world): [... 3], the unit cube."""
    if field.scene == "contracted":
        return contract(x / field.bound) / 4 + 0.5
    return (x / field.bound + 1) / 2


def from_cube(field: Field, place: Array) -> Array:
    """The points x [... 3] (world) that the grid keeps at places [... 3]."""
    if field.scene == "contracted":
        return field.bound * expand(4 * place - 2)
    return field.bound * (2 * place - 1)


def raw_density(
    field: Field,
    params: NerfParams | Guide,
    x: Array,
    level_weights: Array | None = None,
) -> tuple[Array, Array]:
    """(u [...], encodings [... L F]) at points x [... 3]."""
    encoded = hash_grid.encode(
        params.tables, in_cube(field, x), field.grid, level_weights=level_weights
    )
    u = apply_network(params.density, encoded)[..., 0]
    return u + blob(field, x), encoded


def blob(field: Field, x: Array) -> Array:
    """What u [...] begins with at points x [... 3]."""
    if not field.blob_scale:
        return jnp.zeros(x.shape[:-1], x.dtype)
    if field.scene == "contracted":
        x = field.bound * contract(x / field.bound)
    # 1e-12: the root's gradient at the origin stays finite
    length = jnp.sqrt(jnp.sum(x**2, axis=-1) + 1e-12)
    return field.blob_scale * (1 - length / field.blob_radius)


def density_of(field: Field, u: Array) -> Array:
    """sigma [...] of u [...]."""
    return ACTIVATIONS[field.activation](u)


def colour_of(field: Field, params: NerfParams, encoded: Array, directions: Array):
    """rgb [... n 3] of encodings [... n L F] seen along rays of directions [... 3]."""
    if field.view_degree:
        seen = sh.basis(directions, field.view_degree)[..., None, :]
        shape = (*encoded.shape[:-1], seen.shape[-1])
        encoded = jnp.concatenate([encoded, jnp.broadcast_to(seen, shape)], axis=-1)
    return jax.nn.sigmoid(apply_network(params.color, encoded))


def look(field: Field, params: NerfParams, level_weights: Array | None, x: Array):
    """(density [n] per world unit, rgb [n 3]) at points x [n 3], colours as they are
    seen by one who looks at the origin. For exports."""
    u, encoded = raw_density(field, params, x, level_weights)
    length2 = jnp.sum(x**2, axis=-1, keepdims=True)
    inwards = -x * jax.lax.rsqrt(jnp.maximum(length2, 1e-12))
    rgb = colour_of(field, params, encoded[:, None], inwards)[:, 0]
    return density_of(field, u), rgb


def background_of(field: Field, params: NerfParams, directions: Array) -> Array:
    """The learnt background's rgb [... 3] along directions [... 3]."""
    basis = sh.basis(directions, field.background_degree)
    return jax.nn.sigmoid(apply_network(params.background, basis))


def unit_normals(gradient: Array) -> Array:
    """-g / |g| [... 3] of gradients g [... 3], 0 for a gradient of 0."""
    length2 = jnp.sum(gradient**2, axis=-1, keepdims=True)
    return -gradient * jax.lax.rsqrt(jnp.maximum(length2, 1e-20))


def gradient_step(field: Field, level_weights: Array | None) -> Array | float:
    """The step of differences, world units: a cell of the finest level in use
    (Neuralangelo, arXiv 2306.03092, sec. 3.2), of a contracted one inside the ball."""
    side = (4 if field.scene == "contracted" else 2) * field.bound
    cells = [side / level.scale for level in field.grid.levels]
    if level_weights is None:
        return cells[-1]
    used = jnp.sum(level_weights > 0) - 1
    return jnp.asarray(cells)[jnp.clip(used, 0, len(cells) - 1)]


def with_normals(field: Field, params, x: Array, level_weights, how: str):
    """((u, encodings), n [... 3]) at points x [... 3].

    how: "analytic", by derivatives, or "finite_difference", by six more evaluations a
    `gradient_step` wide, which see past a cell's border.
    """
    if how == "analytic":
        return _with_slopes(field, params, x, level_weights)

    def at(x):
        return raw_density(field, params, x, level_weights)

    step, axes = gradient_step(field, level_weights), jnp.eye(3, dtype=x.dtype)
    slopes = [at(x + step * axis)[0] - at(x - step * axis)[0] for axis in axes]
    return at(x), unit_normals(jnp.stack(slopes, axis=-1))


def _with_slopes(field, params, x, level_weights):
    # The chain rule by hand, from u down to x: the encoding's derivatives come with its
    # look-up, and the network is differentiated once instead of once an axis.
    place, to_world = jax.vjp(partial(in_cube, field), x)
    encoded, slopes = hash_grid.encode_with_slopes(
        params.tables, place, field.grid, level_weights=level_weights
    )
    u, to_encoded = jax.vjp(lambda e: apply_network(params.density, e)[..., 0], encoded)
    (pull,) = to_encoded(jnp.ones_like(u))
    (of_network,) = to_world(jnp.stack([jnp.sum(pull * s, -1) for s in slopes], -1))
    start, to_start = jax.vjp(partial(blob, field), x)
    (of_blob,) = to_start(jnp.ones_like(start))
    return (u + start, encoded), unit_normals(of_network + of_blob)
