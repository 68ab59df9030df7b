"""A cloud of anisotropic Gaussians as a `Representation`.

Notation: params are the five learnable fields (GaussianParams); which rows are alive
is state, so that no optimizer ever touches it; `as_gaussians` joins the two into what
the rasteriser and the exports take. Scales, opacities and colours are learnt as
log_scales, opacity_logits and SH coefficients (render/splatting/project.py). `count` is
the number of rows; density control decides which of them live (density_control/).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.cameras import Camera
from sdsjax.render.spherical_harmonics import coefficient_of_colour
from sdsjax.render.splatting.project import Gaussians
from sdsjax.render.splatting.rasterize import rasterize
from sdsjax.representations.backgrounds import draw_background
from sdsjax.representations.gaussians import initialization
from sdsjax.representations.gaussians.density_control import (
    DensityControl,
    make_density_control,
)
from sdsjax.representations.gaussians.density_control.statistics import (
    probe_screen_gradient,
)
from sdsjax.representations.gaussians.settings import GaussianSettings, check_settings
from sdsjax.representations.regularizers import nonzero_weights, sum_of_terms
from sdsjax.types import Rendering, Representation

Array = jax.Array

__all__ = ["GaussianParams", "GaussianState", "Gaussians", "as_gaussians", "gaussians"]


class GaussianParams(NamedTuple):
    """The parameters that an optimizer changes, one row a Gaussian.

    means [n 3], log_scales [n 3], quats [n 4] (w x y z), opacity_logits [n],
    sh [n k 3].
    """

    means: Array
    log_scales: Array
    quats: Array
    opacity_logits: Array
    sh: Array


class GaussianState(NamedTuple):
    """The state that changes with the step but is not optimised.

    alive [n] bool: the rows that are drawn; tally: the statistics of density control.
    """

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
    """Joins parameters and state into what is rasterised and exported."""
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
    """Makes the representation of Gaussians in `count` rows of fixed arrays.

    Each argument is a field of `GaussianSettings`, whose docstring says what it means.
    Raises ValueError on an unknown init, regulariser, background, shape or rule.
    """
    settings = GaussianSettings(**locals())
    rule = make_density_control(control, settings.density_control)
    check_settings(settings, REGULARIZERS)
    probed = rule is not None and rule.needs_screen_gradients
    return Representation(
        init=partial(_init, settings, rule),
        render=partial(_render, settings),
        space="image",
        regularize=partial(_regularize, nonzero_weights(losses)),
        control=partial(_edit, rule) if rule else None,
        probe=_zero_probe if probed else None,
    )


def _init(
    settings: GaussianSettings, rule: DensityControl | None, key: Array
) -> tuple[GaussianParams, GaussianState]:
    count, opacity = settings.count, settings.init_opacity
    key_means, key_quats, key_colour = jax.random.split(key, 3)
    rgb = jax.random.uniform(key_colour, (count, 3), minval=0.4, maxval=0.6)
    means, rgb = _initial_points(settings, key_means, rgb)
    sh = jnp.zeros((count, (settings.sh_degree + 1) ** 2, 3), means.dtype)
    log_scale = math.log(_initial_scale(settings))
    params = GaussianParams(
        means=means,
        log_scales=jnp.full((count, 3), log_scale, means.dtype),
        quats=jax.random.normal(key_quats, (count, 4), means.dtype),
        opacity_logits=jnp.full(count, math.log(opacity / (1 - opacity)), means.dtype),
        sh=sh.at[:, 0].set(coefficient_of_colour(rgb)),
    )
    tally = rule.init(count) if rule else ()
    return params, GaussianState(jnp.arange(count) < settings.initial_count, tally)


def _initial_points(settings: GaussianSettings, key: Array, rgb: Array):
    # means [count 3] and colours [count 3]: a named cloud, or the points given
    init, count = settings.init, settings.count
    if isinstance(init, str):
        cloud = initialization.random_cloud(key, init, count, settings.init_radius)
        return cloud, rgb
    points, living = jnp.asarray(init, jnp.result_type(float)), settings.initial_count
    means = jnp.zeros((count, 3), points.dtype).at[:living].set(points[:, :3])
    if points.shape[1] == 6:
        rgb = rgb.at[:living].set(points[:, 3:])
    return means, rgb


def _initial_scale(settings: GaussianSettings) -> float:
    if settings.init_scale is not None:
        return settings.init_scale
    kind = settings.init if isinstance(settings.init, str) else "ball"
    return 0.5 * initialization.mean_spacing(
        kind, settings.initial_count, settings.init_radius
    )


def _render(
    settings: GaussianSettings,
    params: GaussianParams,
    state: GaussianState,
    camera: Camera,
    key: Array | None,
    probe: Array | None = None,
) -> Rendering:
    screen_offset: Any = None
    if probe is not None:
        half_size = (0.5 * camera.width, 0.5 * camera.height)
        screen_offset = probe_screen_gradient(probe, camera.world_to_camera, half_size)
    return rasterize(
        as_gaussians(params, state),
        camera,
        background=draw_background(settings.background, key, params.means.dtype),
        max_alpha=settings.max_alpha,
        antialias=settings.antialias,
        screen_offset=screen_offset,
        capacity=settings.capacity,
        tile_size=settings.tile_size,
        kernel=settings.kernel,
    )


def _regularize(weights: dict[str, float], params, state, renderings, step):
    del step
    terms = {
        name: weight * REGULARIZERS[name](params, state.alive, renderings)
        for name, weight in weights.items()
    }
    return sum_of_terms(terms, params.means.dtype)


def _edit(rule: DensityControl, key, step, params, state: GaussianState, aux):
    params, alive, tally, row_edit = rule.edit(
        key, step, params, state.alive, state.tally, aux
    )
    return params, GaussianState(alive, tally), row_edit


def _zero_probe(params: GaussianParams) -> Array:
    return jnp.zeros_like(params.opacity_logits)
