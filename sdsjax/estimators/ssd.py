"""Stable Score Distillation: mode-disengaging above a threshold M, mode-seeking below.

h = e_y - e_0;  r = <e_y, eps> / |eps|^2;  e~ = e_y - r eps;
direction = h if t > M, else the variance-reduced (|h| / |e~|) e~.
Norms and products run over all of z. M is not stated in the paper and is the decisive
setting; there is no guidance scale, so gradients are far smaller than SDS's.
Source: Tang et al. (arXiv 2312.09305), alg. 1, eqs. 6-7 and 9.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, Weighting
from sdsjax.estimators.common import draw_noise, from_direction, term_norms
from sdsjax.estimators.terms import projection_ratio
from sdsjax.math import norm, safe_divide
from sdsjax.types import Estimator

REDUCTIONS = ("adaptive", "sds", "none")


def ssd_direction(cond, uncond, eps, seek, ratio, rescale: bool) -> jax.Array:
    """Returns h, or where `seek` (t <= M) the reduced mode-seeking term, z's shape.

    The term is e_y - ratio eps, brought to h's norm if `rescale` (alg. 1, line 15).
    """
    disengaging = cond - uncond
    seeking = cond - ratio * eps
    if rescale:
        seeking = safe_divide(norm(disengaging), norm(seeking)) * seeking
    return jnp.where(seek, seeking, disengaging)


def ssd(
    schedule: NoiseSchedule,
    *,
    threshold: float,
    weighting: Weighting = "sigma2",
    rescale: bool = True,
    reduction: str = "adaptive",
) -> Estimator:
    """Makes Stable Score Distillation (SSD).

    threshold: M in diffusion steps; rescale and reduction are the paper's ablations
    (figs. 6, 13, 14): reduction "adaptive" subtracts r eps, "sds" eps, "none" nothing.
    aux: norms of e_y, h and the direction, r, and whether the sample was mode-seeking.
    Raises ValueError for an unknown reduction or a negative threshold.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"ssd: unknown reduction {reduction!r}: choose one of "
            f"{', '.join(REDUCTIONS)}"
        )
    if threshold < 0:
        raise ValueError(f"ssd: threshold = {threshold} must be >= 0 (0: always h)")

    def direction(prior, key, state, z, t, view):
        eps, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=("cond", "uncond"))
        r = projection_ratio(e.cond, eps)
        ratio = {"adaptive": r, "sds": jnp.ones_like(r), "none": jnp.zeros_like(r)}
        seek = t <= threshold
        d = ssd_direction(e.cond, e.uncond, eps, seek, ratio[reduction], rescale)
        return d, {
            **term_norms(e.cond, e.uncond),
            "r": r,
            "seeking": seek.astype(z.dtype),
        }

    return from_direction(schedule, direction, weighting)
