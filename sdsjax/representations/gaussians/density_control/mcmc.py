"""Density control by 3DGS-MCMC: the dead move onto the living, the faint wander.

Notation: n rows, alive [n]; opacity o, scales s (world units), covariance Sigma = R
diag(s^2) R^T. Source: arXiv 2404.09591. A row that lies on another shares its place as
relocation.py says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax.representations.gaussians.density_control import relocation, row_placement
from sdsjax.representations.gaussians.density_control.edits import (
    DensityControl,
    is_due,
    logit,
    no_edit,
    rotate_to_world,
)
from sdsjax.representations.gaussians.density_control.statistics import (
    Counts,
    add_counts,
    count_true,
    edit_report,
    zero_counts,
)
from sdsjax.types import RowEdit

Array = jax.Array

MAX_SHARERS = 51


class McmcSettings(NamedTuple):
    """The settings of 3DGS-MCMC.

    every, start, stop: updates between two edits, before the first and after the last;
    prune: opacity up to which a Gaussian is dead and moves; growth: share of the living
    that free rows are filled with at an edit; noise (1 / world units), a number or a
    function of the step: means move by noise sigmoid(-100 (o - prune)) Sigma eps; the
    paper has 5e5 times their learning rate.
    """

    every: int
    start: int
    stop: int | None
    prune: float
    growth: float
    noise: float | Callable[[Array], Array]


def mcmc(
    *,
    every: int = 100,
    start: int = 500,
    stop: int | None = 25_000,
    prune: float = 0.005,
    growth: float = 0.05,
    noise: float | Callable[[Array], Array] = 80.0,
) -> DensityControl:
    """Makes the rule of 3DGS-MCMC (arXiv 2404.09591); arguments: see `McmcSettings`.

    Its regularisers are the losses `opacity` and `scale`, 0.01 each.
    """
    settings = McmcSettings(**locals())
    return DensityControl(
        lambda n: zero_counts(), partial(_edit, settings), needs_screen_gradients=False
    )


def _edit(settings: McmcSettings, key, step, params, alive, counts, aux) -> tuple:
    del aux
    s = settings
    key_rows, key_noise = jax.random.split(key)
    operand = (params, alive, counts)
    params, alive, counts, edit = lax.cond(
        is_due(step, s.every, s.start, s.stop),
        lambda operand: _relocate(s, key_rows, *operand),
        lambda operand: (*operand, no_edit(alive.shape[0])),
        operand,
    )
    params = _wander(s, key_noise, step, params, alive)
    return params, alive, counts, edit._replace(aux=edit_report(alive, counts))


def _relocate(settings: McmcSettings, key, params, alive, counts: Counts) -> tuple:
    # Dead rows, and free ones for the growth, become copies of rows drawn by opacity.
    n, prune = alive.shape[0], settings.prune
    index = jnp.arange(n, dtype=jnp.int32)
    opacity = jax.nn.sigmoid(params.opacity_logits)
    living = alive & (opacity > prune)
    dead = alive & ~living
    growth = jnp.floor(settings.growth * count_true(alive).astype(opacity.dtype))
    target = (dead | row_placement.first_free(alive, growth)) & jnp.any(living)
    drawn = row_placement.draw_rows(key, jnp.where(living, opacity, 0))
    copies = jnp.zeros(n, jnp.int32).at[drawn].add(target.astype(jnp.int32))
    params, copied = _share(params, copies, prune)
    source = jnp.where(target, drawn, index)
    counts = add_counts(
        counts,
        relocated=count_true(target & dead),
        cloned=count_true(target & ~dead),
        shortfall=count_true(dead & ~target),
    )
    edit = RowEdit(source, target | copied)
    params = row_placement.gather_rows(params, source)
    return params, alive | target, counts, edit


def _share(params, copies: Array, prune: float):
    # Rows that get copies [n] become fainter and smaller, so that the picture stays;
    # and which these are.
    opacity, factor = relocation.share_place(
        params.opacity_logits, jnp.minimum(copies + 1, MAX_SHARERS)
    )
    copied = copies > 0
    params = params._replace(
        opacity_logits=jnp.where(
            copied, logit(jnp.maximum(opacity, prune)), params.opacity_logits
        ),
        log_scales=params.log_scales + jnp.where(copied, jnp.log(factor), 0.0)[:, None],
    )
    return params, copied


def _wander(settings: McmcSettings, key, step, params, alive):
    # Faint Gaussians move at random, the more the fainter they are.
    opacity = jax.nn.sigmoid(params.opacity_logits)
    faint = jax.nn.sigmoid(-100.0 * (opacity - settings.prune))
    # R diag(s^2) R^T eps: a rotated eps has eps's law, so R^T is left out.
    noise = jax.random.normal(key, params.means.shape, params.means.dtype)
    shift = rotate_to_world(params, noise * jnp.exp(2 * params.log_scales))
    rate = settings.noise(step) if callable(settings.noise) else settings.noise
    size = jnp.where(alive, rate * faint, 0)[:, None]
    return params._replace(means=params.means + size * shift)
