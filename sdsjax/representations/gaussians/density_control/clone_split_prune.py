"""Adaptive density control: clone, split, prune, lower the opacities (3DGS and after).

Notation: n rows, alive [n]; opacity o, scales s (world units); screen gradients as in
statistics.py. Faint (and, where asked, large) Gaussians die first, so that their rows
are free; of the rest, those with a high screen gradient grow: small ones are cloned,
large ones become two draws from themselves, 1.6 times smaller.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax.losses import masked_mean
from sdsjax.representations.gaussians.density_control import relocation, row_placement
from sdsjax.representations.gaussians.density_control.edits import (
    DensityControl,
    is_due,
    logit,
    no_edit,
    rotate_to_world,
)
from sdsjax.representations.gaussians.density_control.statistics import (
    DensityStatistics,
    add_counts,
    add_views,
    count_true,
    edit_report,
    mean_gradient,
    zero_statistics,
)
from sdsjax.types import RowEdit

Array = jax.Array

SPLIT_SHRINK = 1.6


class AdaptiveSettings(NamedTuple):
    """The settings of adaptive density control.

    every, start, stop: updates between two edits, before the first and after the last;
    threshold: screen gradient above which a Gaussian grows; clone_scale (world units):
    up to this largest scale it is cloned, above it split; prune: opacity below which it
    dies; prune_scale: largest scale above which it dies (None: never); reset_every
    (updates, 0: never) and reset_opacity: to what opacities are then lowered; decay:
    factor on every opacity at an edit; shared: the two that were one are together as
    opaque as it was.
    """

    every: int
    start: int
    stop: int | None
    threshold: float
    clone_scale: float
    prune: float
    prune_scale: float | None
    reset_every: int
    reset_opacity: float
    decay: float
    shared: bool


def adaptive_density_control(
    *,
    every: int = 100,
    start: int = 500,
    stop: int | None = 15_000,
    threshold: float = 2e-4,
    clone_scale: float = 0.01,
    prune: float = 0.005,
    prune_scale: float | None = None,
    reset_every: int = 3000,
    reset_opacity: float = 0.01,
    decay: float = 1.0,
    shared: bool = False,
) -> DensityControl:
    """Makes the rule of 3DGS (arXiv 2308.04079); arguments: see `AdaptiveSettings`."""
    settings = AdaptiveSettings(**locals())
    return DensityControl(
        zero_statistics, partial(_edit, settings), needs_screen_gradients=True
    )


def stabledreamer(
    *,
    every: int = 100,
    start: int = 100,
    stop: int | None = None,
    threshold: float = 0.01,
    clone_scale: float = 0.01,
    prune: float = 0.005,
    prune_scale: float | None = None,
    reset_every: int = 1000,
    reset_opacity: float = 0.1,
    decay: float = 0.9,
    shared: bool = True,
) -> DensityControl:
    """Makes the rule of StableDreamer: adaptive control for distillation.

    Opacities decay at every edit, so that what no view asks for dies, and are lowered
    now and then, but not to where all would die. The rule is that of arXiv 2312.02189;
    the figures are those of its neighbours (DreamGaussian, threestudio's 3DGS).
    Arguments: see `AdaptiveSettings`.
    """
    return adaptive_density_control(**locals())


def _edit(
    settings: AdaptiveSettings, key, step, params, alive, statistics, aux
) -> tuple:
    s = settings
    statistics = add_views(statistics, aux)
    gradient = masked_mean(mean_gradient(statistics), alive)
    operand = (params, alive, statistics)
    params, alive, statistics, edit = lax.cond(
        is_due(step, s.every, s.start, s.stop),
        lambda operand: _edit_rows(s, key, *operand),
        lambda operand: (*operand, no_edit(alive.shape[0])),
        operand,
    )
    if s.reset_every:
        ceiling = logit(jnp.asarray(s.reset_opacity))
        lowered = is_due(step, s.reset_every, 0, s.stop) & (
            params.opacity_logits > ceiling
        )
        logits = jnp.where(lowered, ceiling, params.opacity_logits)
        params = params._replace(opacity_logits=logits)
        edit = edit._replace(reset=edit.reset | lowered)
    report = edit_report(alive, statistics.counts, gradient=gradient)
    return params, alive, statistics, edit._replace(aux=report)


def _edit_rows(
    settings: AdaptiveSettings, key, params, alive, statistics: DensityStatistics
) -> tuple:
    largest = jnp.exp(jnp.max(params.log_scales, axis=-1))
    pruned = alive & _doomed(settings, params, largest)
    alive = alive & ~pruned
    score = mean_gradient(statistics)
    wanted = alive & (score > settings.threshold)
    copies = row_placement.place_copies(alive, wanted, score)
    params = row_placement.gather_rows(params, copies.source)
    grown = copies.granted | copies.placed
    split = grown & (largest[copies.source] > settings.clone_scale)
    params = _grow(settings, key, params, grown, split)
    counts = add_counts(
        statistics.counts,
        cloned=count_true(copies.placed & ~split),
        split=count_true(copies.placed & split),
        pruned=count_true(pruned),
        shortfall=copies.short,
    )
    statistics = DensityStatistics(
        jnp.zeros_like(statistics.gradient), jnp.zeros_like(statistics.seen), counts
    )
    edit = RowEdit(copies.source, pruned | copies.placed | split)
    return params, alive | copies.placed, statistics, edit


def _doomed(settings: AdaptiveSettings, params, largest: Array) -> Array:
    # rows [n] too faint, or too large, to live
    doomed = jax.nn.sigmoid(params.opacity_logits) < settings.prune
    if settings.prune_scale is not None:
        doomed |= largest > settings.prune_scale
    return doomed


def _grow(settings: AdaptiveSettings, key, params, grown: Array, split: Array):
    # Both rows of a pair: two draws, smaller, where they are split; opacities shared
    # and decayed where that is asked for.
    noise = jax.random.normal(key, params.means.shape, params.means.dtype)
    offset = rotate_to_world(params, noise * jnp.exp(params.log_scales))
    logits = params.opacity_logits
    if settings.shared:
        half = relocation.shared_opacity(-jax.nn.softplus(logits), 2.0)
        logits = jnp.where(grown, logit(half), logits)
    if settings.decay != 1:
        logits = logit(settings.decay * jax.nn.sigmoid(logits))
    return params._replace(
        means=params.means + jnp.where(split[:, None], offset, 0),
        log_scales=params.log_scales
        - jnp.where(split[:, None], math.log(SPLIT_SHRINK), 0),
        opacity_logits=logits,
    )
