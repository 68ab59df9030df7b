"""A cloud of anisotropic Gaussians as a `Representation`.

Notation: params are the five learnable fields (GaussianParams); which rows are alive
is state, so that no optimizer ever touches it; `as_gaussians` joins the two into what
the rasteriser and the exports take. Scales, opacities and colours are learnt as
log_scales, opacity_logits and SH coefficients (render/project.py). `count` is the
number of rows; density control decides which of them live (density_control.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.cameras import Camera
from sdsjax.render.spherical_harmonics import coefficient_of_colour, degree_of
from sdsjax.render.splatting.project import Gaussians
from sdsjax.render.splatting.rasterize import KERNELS, rasterize
from sdsjax.representations.common import (
    check_background,
    check_losses,
    draw_background,
)
from sdsjax.representations.gaussians import density_control, initialization
from sdsjax.representations.gaussians.density_control.statistics import watch
from sdsjax.types import Rendering, Representation

Array = jax.Array

__all__ = ["GaussianParams", "GaussianState", "Gaussians", "as_gaussians", "gaussians"]


class GaussianParams(NamedTuple):
    """What is learnt: means [n 3], log_scales [n 3], quats [n 4] (w x y z),
    opacity_logits [n], sh [n k 3]."""

    means: Array
    log_scales: Array
    quats: Array
    opacity_logits: Array
    sh: Array


class GaussianState(NamedTuple):
    """What is not learnt: alive [n] bool, the rows that are drawn; tally: what density
    control remembers."""

    alive: Array
    tally: Any = ()


# Each takes (params, alive, renderings); renderings may carry a leading axis of views.
REGULARIZERS = {
    "opacity": lambda p, a, r: loss.mean_opacity(jax.nn.sigmoid(p.opacity_logits), a),
    "scale": lambda p, a, r: loss.mean_scale(jnp.exp(p.log_scales), a),
    "position": lambda p, a, r: loss.mean_distance(p.means, a),
    "bounds": lambda p, a, r: loss.outside_ball(p.means, a, 1.0),
    "anisotropy": lambda p, a, r: loss.anisotropy(jnp.exp(p.log_scales), a),
    "sparsity": lambda p, a, r: loss.sparsity(r.opacity),
    "entropy": lambda p, a, r: loss.binary_entropy(r.opacity),
    "total_variation": lambda p, a, r: loss.total_variation(r.rgb),
}


def as_gaussians(params: GaussianParams, state: GaussianState) -> Gaussians:
    """Joins what is learnt and what is not into what is drawn and exported."""
    return Gaussians(*params, alive=state.alive)


def gaussians(
    *,
    count: int,
    sh_degree: int = 0,
    init: str | Array = "ball",
    init_radius: float = 0.6,
    init_scale: float | None = None,
    init_opacity: float = 0.1,
    init_count: int | None = None,
    background: str | Sequence[float] = "random",
    losses: Mapping[str, float] | None = None,
    max_alpha: float = 0.99,
    antialias: bool = False,
    capacity: int | None = None,
    tile_size: int | None = None,
    kernel: str = "xla",
    control: str = "none",
    control_every: int | None = None,
    control_start: int | None = None,
    control_stop: int | None = None,
    control_threshold: float | None = None,
    control_clone_scale: float | None = None,
    control_prune: float | None = None,
    control_prune_scale: float | None = None,
    control_reset_every: int | None = None,
    control_reset_opacity: float | None = None,
    control_decay: float | None = None,
    control_shared: bool | None = None,
    control_growth: float | None = None,
    control_noise: float | Callable[[Array], Array] | None = None,
) -> Representation:
    """Gaussians in `count` rows that fill a ball, a shell or the given points.

    init_count: rows that live from the beginning (None: all); init: "ball", "shell" or
    those points [init_count 3], or points and rgb [init_count 6]; init_radius in world
    units; init_scale: standard deviation (world units; None: half the cloud's spacing);
    control: the rule of density control, "none", "3dgs", "stabledreamer" or "mcmc";
    control_*: its settings (None: the rule's own; density_control.py); background:
    "random" (a flat colour a view, drawn from the key; white without a key), "white",
    or rgb. losses: weight of each regulariser (REGULARIZERS). capacity, tile_size,
    max_alpha, antialias, kernel: see `rasterize`.
    Raises ValueError on an unknown init, regulariser, background, shape or rule.
    """
    settings = locals()
    settings = {
        name.removeprefix("control_"): value
        for name, value in settings.items()
        if name.startswith("control_")
    }
    rule = density_control.make(control, settings)
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: allowed are {', '.join(KERNELS)}")
    begun = count if init_count is None else min(init_count, count)
    _check(count, begun, sh_degree, init, init_opacity, background, losses)
    weights = {name: w for name, w in dict(losses or {}).items() if w}

    def begin(key: Array) -> tuple[GaussianParams, GaussianState]:
        key_means, key_quats, key_colour = jax.random.split(key, 3)
        rgb = jax.random.uniform(key_colour, (count, 3), minval=0.4, maxval=0.6)
        means, rgb = _points(key_means, init, count, begun, init_radius, rgb)
        kind = init if isinstance(init, str) else "ball"
        half = 0.5 * initialization.spacing(kind, begun, init_radius)
        scale = half if init_scale is None else init_scale
        sh = jnp.zeros((count, (sh_degree + 1) ** 2, 3), means.dtype)
        params = GaussianParams(
            means=means,
            log_scales=jnp.full((count, 3), math.log(scale), means.dtype),
            quats=jax.random.normal(key_quats, (count, 4), means.dtype),
            opacity_logits=jnp.full(
                count, math.log(init_opacity / (1 - init_opacity)), means.dtype
            ),
            sh=sh.at[:, 0].set(coefficient_of_colour(rgb)),
        )
        tally = rule.begin(count) if rule else ()
        return params, GaussianState(jnp.arange(count) < begun, tally)

    def render(
        params, state, camera: Camera, key: Array | None, probe: Array | None = None
    ) -> Rendering:
        half_size = (0.5 * camera.width, 0.5 * camera.height)
        offset: Any = None
        if probe is not None:
            offset = watch(probe, camera.world_to_camera, half_size)
        return rasterize(
            as_gaussians(params, state),
            camera,
            background=draw_background(background, key, params.means.dtype),
            max_alpha=max_alpha,
            antialias=antialias,
            screen_offset=offset,
            capacity=capacity,
            tile_size=tile_size,
            kernel=kernel,
        )

    def regularize(params, state, renderings, step):
        del step
        terms = {
            name: weight * REGULARIZERS[name](params, state.alive, renderings)
            for name, weight in weights.items()
        }
        return sum(terms.values(), jnp.zeros((), params.means.dtype)), terms

    def edit(key, step, params, state, aux):
        assert rule is not None
        params, alive, tally, moved = rule.edit(
            key, step, params, state.alive, state.tally, aux
        )
        return params, GaussianState(alive, tally), moved

    def probe_of(params):
        return jnp.zeros_like(params.opacity_logits)

    return Representation(
        init=begin,
        render=render,
        space="image",
        regularize=regularize,
        control=edit if rule else None,
        probe=probe_of if rule and rule.watches else None,
    )


def _points(key, init, count: int, begun: int, radius: float, rgb: Array):
    """Means [count 3] and colours [count 3]: a named cloud, or the points given."""
    if isinstance(init, str):
        return initialization.cloud(key, init, count, radius), rgb
    points = jnp.asarray(init, jnp.result_type(float))
    means = jnp.zeros((count, 3), points.dtype).at[:begun].set(points[:, :3])
    if points.shape[1] == 6:
        rgb = rgb.at[:begun].set(points[:, 3:])
    return means, rgb


def _check(count, begun, sh_degree, init, init_opacity, background, losses) -> None:
    if count < 1:
        raise ValueError(f"count={count}: at least one Gaussian is needed")
    if begun < 1:
        raise ValueError(f"init_count={begun}: at least one Gaussian must live")
    degree_of((sh_degree + 1) ** 2)
    if isinstance(init, str):
        if init not in initialization.CLOUDS:
            raise ValueError(
                f"init={init!r}: allowed are {', '.join(initialization.CLOUDS)} or an "
                "array of points (in a config, a .ply file of them)"
            )
    elif jnp.shape(init) not in ((begun, 3), (begun, 6)):
        raise ValueError(
            f"init has shape {jnp.shape(init)}: give ({begun}, 3), or ({begun}, 6) "
            "with colours; init_count may be below count"
        )
    if not 0 < init_opacity < 1:
        raise ValueError(f"init_opacity={init_opacity}: give a number between 0 and 1")
    check_background(background)
    check_losses(losses, REGULARIZERS)
