"""Score Distillation Sampling, the direction e_s - eps.

e_s = e_0 + s (e_y - e_0), s = `guidance_scale`; eps the noise that was added.
Sources: DreamFusion eq. 3 (arXiv 2209.14988), whose omega is s - 1; Stable Score
Distillation eqs. 3-4 for its three terms.
"""

from __future__ import annotations

import jax

from sdsjax.diffusion import NoiseSchedule, Weighting
from sdsjax.estimators.common import (
    draw_noise,
    from_direction,
    guidance,
    term_norms,
)
from sdsjax.types import Estimator


def sds_direction(guided, eps) -> jax.Array:
    """Returns e_s - eps, z's shape (DreamFusion eq. 3)."""
    return guided - eps


def sds(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 100.0,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "sigma2",
) -> Estimator:
    """Makes Score Distillation Sampling (SDS).

    guidance_scale s: DreamFusion's 100 is s = 101, threestudio's is s = 100.
    guidance_rescale: see `common.guidance`. aux: norms of e_y, h = e_y - e_0 and the
    direction before w(t). Raises ValueError for a rescale outside 0..1.
    """
    guided = guidance(schedule, guidance_scale, guidance_rescale)

    def direction(prior, key, state, z, t, view):
        eps, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=("cond", "uncond"))
        d = sds_direction(guided(z_t, t, e.cond, e.uncond), eps)
        return d, term_norms(e.cond, e.uncond)

    return from_direction(schedule, direction, weighting)
