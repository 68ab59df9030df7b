"""A radiance field as a `Representation`: hash grid, two networks, rays.

Params and field: field.py; what a ray sees: march.py. With a key every ray draws one
offset for its coarse points and one for its fine ones, and the background is drawn too;
without a key both are the centres of their strata, and the background is white. Rays go
in chunks, and the backward pass computes what a chunk sees anew (jax.checkpoint).
Normals of single points are computed where a loss or the shading asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.cameras import Camera, camera_position
from sdsjax.render import volume
from sdsjax.render.sh import degree_of
from sdsjax.representations import hashgrid, shading
from sdsjax.representations.field import (
    ACTIVATIONS,
    NORMALS,
    Field,
    NerfParams,
    background_of,
    init_field,
    look,
)
from sdsjax.representations.march import (
    Sampling,
    draw_points,
    in_chunks,
    ray_points,
)
from sdsjax.types import Rendering, Representation, RowEdit

Array = jax.Array

__all__ = ["REGULARIZERS", "NerfParams", "NerfState", "nerf"]

# Each takes (renderings, z_reduction); renderings may carry a leading axis of views.
REGULARIZERS = {
    "opacity": lambda r, _: jnp.mean(r.opacity),
    "sparsity": lambda r, _: loss.sparsity(r.opacity),
    "entropy": lambda r, _: loss.binary_entropy(r.opacity),
    "total_variation": lambda r, _: loss.total_variation(r.rgb),
    "z_variance": lambda r, how: loss.reduce_rays(
        r.aux["z_variance"], r.opacity > loss.OPAQUE, how
    ),
    "distortion": lambda r, _: jnp.mean(r.aux["distortion"]),
    "orientation": lambda r, _: jnp.mean(r.aux["orientation"]),
    "normal_smoothness": lambda r, _: loss.normal_smoothness(r.normal, r.opacity),
}
GEOMETRIC = ("z_variance", "distortion", "orientation", "normal_smoothness")
OF_NORMALS = ("orientation", "normal_smoothness")


class NerfState(NamedTuple):
    """What is not learnt: level_weights [L], the grid's progressive band."""

    level_weights: Array


def nerf(
    *,
    levels: int = 8,
    features: int = 2,
    log2_size: int = 14,
    base: int = 4,
    growth: float = 1.5,
    smooth: bool = False,
    band_first: int = 0,
    band_start: int = 0,
    band_every: int = 100,
    hidden: int = 64,
    bound: float = 1.0,
    activation: str = "softplus",
    blob_scale: float = 10.0,
    blob_radius: float = 0.5,
    view_degree: int = 0,
    background_degree: int = 0,
    coarse: int = 24,
    fine: int = 24,
    kernel: int = 3,
    chunk: int = 4096,
    normals: str = "analytic",
    lambertian: float = 0.0,
    textureless: float = 0.0,
    z_reduction: str = "mean",
    ramp_steps: int = 0,
    background: str | Sequence[float] = "random",
    losses: Mapping[str, float] | None = None,
) -> Representation:
    """A field in the cube [-bound, bound]^3, seen along rays.

    levels, features, log2_size, base, growth, smooth: the hash grid (hashgrid.py);
    band_first: levels that count from the beginning, then one more each `band_every`
    steps from `band_start` on (0: all from the beginning); hidden: width of the
    networks; activation: "softplus" or "exp", with a blob of density (field.py);
    view_degree: of the spherical harmonics of the ray that colours see (0: none);
    background_degree: the same of a learnt background in the place of `background`
    (0: none); coarse, fine: points a ray; kernel: width of the smoothing (odd, 1:
    none); chunk: rays at once; normals: "analytic" or "finite_difference";
    lambertian, textureless: probabilities a view of shading with and without texture;
    z_reduction: "mean", "counted" or "sum" (losses.reduce_rays); ramp_steps: steps over
    which the geometric losses rise to their weights; background: "random" (a flat
    colour a view, drawn from the key; white without a key), "white" or rgb; losses:
    weight of each regulariser (REGULARIZERS).
    Raises ValueError on a setting outside its range.
    """
    settings = dict(locals())
    grid = hashgrid.make_grid(
        levels=levels, features=features, log2_size=log2_size, base=base,
        growth=growth, smooth=smooth,
    )  # fmt: skip
    _check(settings)
    field = Field(
        grid, bound, hidden, activation, blob_scale, blob_radius, view_degree,
        background_degree,
    )  # fmt: skip
    weights = {name: w for name, w in dict(losses or {}).items() if w}
    shaded = lambertian + textureless > 0
    at_points = shaded or any(name in weights for name in OF_NORMALS)
    sampling = Sampling(
        coarse, fine, kernel, tuple(weights), normals if at_points else None
    )

    # The backward pass computes what a chunk sees anew, not where it looks.
    again = jax.checkpoint(partial(draw_points, field, sampling))

    def band(step) -> Array:
        if not band_first:
            return jnp.ones(levels)
        return hashgrid.band_weights(
            step, levels, first=band_first, start=band_start, every=band_every
        )

    def begin(key: Array) -> tuple[NerfParams, NerfState]:
        return init_field(key, field), NerfState(band(0))

    def render(params, state, camera: Camera, key: Array | None) -> Rendering:
        rays = volume.camera_rays(camera)
        shape = rays.forward.shape
        u, light, behind = jnp.full((*shape, 2), 0.5), None, jnp.ones(3)
        if key is not None:
            key_offset, key_light, key_background = jax.random.split(key, 3)
            u = jax.random.uniform(key_offset, (*shape, 2))
            behind = _background(background, key_background)
            if shaded:
                light = shading.draw_light(
                    key_light, camera_position(camera),
                    lambertian=lambertian, textureless=textureless,
                )  # fmt: skip
            if background_degree:
                behind = background_of(field, params, rays.directions)
        level_weights = state.level_weights if band_first else None

        def draw(part):
            rays, u = part
            still = jax.lax.stop_gradient(params)
            places = ray_points(field, sampling, still, level_weights, rays, u)
            return again(params, level_weights, light, rays, *places)

        drawn = in_chunks(draw, (rays, u), chunk)
        return Rendering(
            rgb=volume.over_background(drawn.rgb, drawn.opacity, behind),
            opacity=drawn.opacity,
            depth=drawn.depth,
            normal=drawn.normal,
            aux=drawn.terms,
        )

    def regularize(params, state, renderings, step):
        del params, state
        ramp = jnp.minimum(1.0, step / ramp_steps) if ramp_steps else 1.0
        terms = {
            name: weight
            * (ramp if name in GEOMETRIC else 1.0)
            * REGULARIZERS[name](renderings, z_reduction)
            for name, weight in weights.items()
        }
        return sum(terms.values(), jnp.zeros(())), terms

    def open_band(key, step, params, state, aux):
        del key, state, aux
        # No rows move; the band is that of the step that comes next.
        nothing = RowEdit(jnp.zeros(0, jnp.int32), jnp.zeros(0, bool))
        return params, NerfState(band(step + 1)), nothing

    return Representation(
        init=begin,
        render=render,
        space="image",
        regularize=regularize,
        control=open_band if band_first else None,
        field=lambda params, state, x: look(field, params, state.level_weights, x),
    )


def _background(background, key: Array) -> Array:
    if background == "white":
        return jnp.ones(3)
    if not isinstance(background, str):
        return jnp.asarray(background, jnp.result_type(float))
    return jax.random.uniform(key, (3,))


def _check(settings: Mapping[str, Any]) -> None:
    """Raises ValueError with one line for the first setting that cannot work."""
    for name, low, high in (
        ("band_first", 0, settings["levels"]),
        ("band_start", 0, 10_000_000),
        ("band_every", 1, 10_000_000),
        ("hidden", 1, 1024),
        ("bound", 0.01, 1000),
        ("blob_scale", 0, 1000),
        ("blob_radius", 0.01, 1000),
        ("coarse", 2, 1024),
        ("fine", 0, 1024),
        ("kernel", 1, 99),
        ("chunk", 1, 10_000_000),
        ("lambertian", 0, 1),
        ("textureless", 0, 1 - settings["lambertian"]),
        ("ramp_steps", 0, 10_000_000),
    ):
        if not low <= settings[name] <= high:
            raise ValueError(f"{name} = {settings[name]} must be in {low}..{high}")
    if settings["kernel"] % 2 == 0:
        raise ValueError(f"kernel = {settings['kernel']} must be odd")
    for name in ("view_degree", "background_degree"):
        degree_of((settings[name] + 1) ** 2)
    for name, allowed in (
        ("activation", ACTIVATIONS),
        ("normals", NORMALS),
        ("z_reduction", loss.REDUCTIONS),
    ):
        if settings[name] not in allowed:
            raise ValueError(
                f"{name}={settings[name]!r}: allowed are {', '.join(allowed)}"
            )
    background = settings["background"]
    if isinstance(background, str):
        if background not in ("random", "white"):
            raise ValueError(
                f"background={background!r}: allowed are 'random', 'white' or (r, g, b)"
            )
    elif len(background) != 3:
        raise ValueError(f"background={background}: give three numbers (r, g, b)")
    unknown = sorted(set(settings["losses"] or {}) - set(REGULARIZERS))
    if unknown:
        raise ValueError(
            f"losses: unknown {', '.join(unknown)}; allowed are "
            f"{', '.join(sorted(REGULARIZERS))}"
        )
