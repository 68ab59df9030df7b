"""Adaptive density control: clone, split, prune, lower the opacities (3DGS and after).

Notation: n rows, alive [n]; opacity o, scales s (world units); screen gradients as in
statistics.py. Faint (and, where asked, large) Gaussians die first, so that their rows
are free; of the rest, those with a high screen gradient grow: small ones are cloned,
large ones become two draws from themselves, 1.6 times smaller.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax.losses import masked_mean
from sdsjax.representations.gaussians.density_control import relocation, slots
from sdsjax.representations.gaussians.density_control.statistics import (
    Control,
    Tally,
    add,
    along_axes,
    due,
    empty_tally,
    gather_views,
    logit,
    mean_gradient,
    number,
    report,
    unmoved,
)
from sdsjax.types import RowEdit

SPLIT_SHRINK = 1.6


def adaptive(
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
) -> Control:
    """The rules of 3DGS (arXiv 2308.04079).

    every, start, stop: updates between, before the first and after the last edit;
    threshold: screen gradient above which a Gaussian grows; clone_scale (world units):
    up to this largest scale it is cloned, above it split; prune: opacity below which it
    dies; prune_scale: largest scale above which it dies (None: never); reset_every
    (updates, 0: never) and reset_opacity: to what opacities are then lowered; decay:
    factor on every opacity at an edit; shared: the two that were one are together as
    opaque as it was.
    """

    def edit_rows(key, params, alive, tally):
        n = alive.shape[0]
        largest = jnp.exp(jnp.max(params.log_scales, axis=-1))
        doomed = jax.nn.sigmoid(params.opacity_logits) < prune
        if prune_scale is not None:
            doomed |= largest > prune_scale
        pruned = alive & doomed
        alive = alive & ~pruned
        score = mean_gradient(tally)
        copies = slots.place_copies(alive, alive & (score > threshold), score)
        params = slots.take(params, copies.source)
        parted = copies.granted | copies.placed
        split = parted & (largest[copies.source] > clone_scale)
        local = jax.random.normal(key, (n, 3), params.means.dtype)
        local = along_axes(params, local * jnp.exp(params.log_scales))
        logits = params.opacity_logits
        if shared:
            half = relocation.shared_opacity(-jax.nn.softplus(logits), 2.0)
            logits = jnp.where(parted, logit(half), logits)
        if decay != 1:
            logits = logit(decay * jax.nn.sigmoid(logits))
        params = params._replace(
            means=params.means + jnp.where(split[:, None], local, 0),
            log_scales=params.log_scales
            - jnp.where(split[:, None], math.log(SPLIT_SHRINK), 0),
            opacity_logits=logits,
        )
        counts = add(
            tally.counts,
            cloned=number(copies.placed & ~split),
            split=number(copies.placed & split),
            pruned=number(pruned),
            shortfall=copies.short,
        )
        tally = Tally(
            jnp.zeros_like(tally.gradient), jnp.zeros_like(tally.seen), counts
        )
        edit = RowEdit(copies.source, pruned | copies.placed | split)
        return params, alive | copies.placed, tally, edit

    def edit(key, step, params, alive, tally, aux):
        tally = gather_views(tally, aux)
        gradient = masked_mean(mean_gradient(tally), alive)
        operand = (params, alive, tally)
        params, alive, tally, moved = lax.cond(
            due(step, every, start, stop),
            lambda operand: edit_rows(key, *operand),
            lambda operand: (*operand, unmoved(alive.shape[0])),
            operand,
        )
        if reset_every:
            ceiling = logit(jnp.asarray(reset_opacity))
            lowered = due(step, reset_every, 0, stop) & (
                params.opacity_logits > ceiling
            )
            logits = jnp.where(lowered, ceiling, params.opacity_logits)
            params = params._replace(opacity_logits=logits)
            moved = moved._replace(reset=moved.reset | lowered)
        aux = report(alive, tally.counts, gradient=gradient)
        return params, alive, tally, moved._replace(aux=aux)

    return Control(empty_tally, edit, watches=True)


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
) -> Control:
    """`adaptive` for distillation: opacities decay at every edit, so that what no view
    asks for dies, and are lowered now and then, but not to where all would die.

    The rules are those of arXiv 2312.02189; the figures those of its neighbours
    (DreamGaussian, threestudio's 3DGS).
    """
    return adaptive(**locals())
