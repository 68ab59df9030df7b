"""3DGS-MCMC (arXiv 2404.09591): the dead move onto the living, the faint wander.

Notation: n rows, alive [n]; opacity o, scales s (world units), covariance Sigma = R
diag(s^2) R^T. A row that lies on another shares its place as relocation.py says.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax.representations.gaussians.density_control import relocation, slots
from sdsjax.representations.gaussians.density_control.statistics import (
    Control,
    add,
    along_axes,
    due,
    logit,
    no_counts,
    number,
    report,
    unmoved,
)
from sdsjax.types import RowEdit

Array = jax.Array
MAX_SHARERS = 51


def mcmc(
    *,
    every: int = 100,
    start: int = 500,
    stop: int | None = 25_000,
    prune: float = 0.005,
    growth: float = 0.05,
    noise: float | Callable[[Array], Array] = 80.0,
) -> Control:
    """3DGS-MCMC (arXiv 2404.09591).

    prune: opacity up to which a Gaussian is dead and moves; growth: share of the living
    that free rows are filled with at an edit; noise (1 / world units), a number or a
    function of the step: means move by noise sigmoid(-100 (o - prune)) Sigma eps; the
    paper has 5e5 times their learning rate. Its regularisers are the losses `opacity`
    and `scale`, 0.01 each.
    """
    rate = noise if callable(noise) else lambda step: noise

    def edit_rows(key, params, alive, counts):
        n = alive.shape[0]
        index = jnp.arange(n, dtype=jnp.int32)
        opacity = jax.nn.sigmoid(params.opacity_logits)
        living = alive & (opacity > prune)
        dead = alive & ~living
        more = jnp.floor(growth * number(alive).astype(opacity.dtype))
        target = (dead | slots.first_free(alive, more)) & jnp.any(living)
        drawn = slots.draw_rows(key, jnp.where(living, opacity, 0))
        hits = jnp.zeros(n, jnp.int32).at[drawn].add(target.astype(jnp.int32))
        split, factor = relocation.share(
            params.opacity_logits, jnp.minimum(hits + 1, MAX_SHARERS)
        )
        hit = hits > 0
        params = params._replace(
            opacity_logits=jnp.where(
                hit, logit(jnp.maximum(split, prune)), params.opacity_logits
            ),
            log_scales=params.log_scales
            + jnp.where(hit, jnp.log(factor), 0.0)[:, None],
        )
        source = jnp.where(target, drawn, index)
        counts = add(
            counts,
            relocated=number(target & dead),
            cloned=number(target & ~dead),
            shortfall=number(dead & ~target),
        )
        edit = RowEdit(source, target | hit)
        return slots.take(params, source), alive | target, counts, edit

    def edit(key, step, params, alive, counts, aux):
        del aux
        key_rows, key_noise = jax.random.split(key)
        operand = (params, alive, counts)
        params, alive, counts, moved = lax.cond(
            due(step, every, start, stop),
            lambda operand: edit_rows(key_rows, *operand),
            lambda operand: (*operand, unmoved(alive.shape[0])),
            operand,
        )
        faint = jax.nn.sigmoid(-100.0 * (jax.nn.sigmoid(params.opacity_logits) - prune))
        # R diag(s^2) R^T eps: a rotated eps has eps's law, so R^T is left out.
        local = jax.random.normal(key_noise, params.means.shape, params.means.dtype)
        shift = along_axes(params, local * jnp.exp(2 * params.log_scales))
        size = jnp.where(alive, rate(step) * faint, 0)[:, None]
        params = params._replace(means=params.means + size * shift)
        return params, alive, counts, moved._replace(aux=report(alive, counts))

    return Control(lambda n: no_counts(), edit, watches=False)
