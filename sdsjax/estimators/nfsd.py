"""Noise-Free Score Distillation: d_D + s h, with no noise to subtract.

h = e_y - e_0; d_D, what is left of the noise-free denoising direction, is e_0 itself
below the timestep `switch_time` (little noise is in it) and e_0 - e_neg from there on,
where e_neg belongs to a prompt that describes poor images.
Source: Katzir et al., Noise-Free Score Distillation (arXiv 2310.17590), eqs. 6-9.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, Weighting, guide
from sdsjax.estimators.common import (
    draw_noise,
    from_direction,
    guidance,
    term_norms,
)
from sdsjax.math import norm
from sdsjax.types import Estimator


def nfsd_direction(cond, uncond, negative, early, guidance_scale: float) -> jax.Array:
    """Returns d_D + s h, z's shape; d_D = e_0 where `early`, else e_0 - e_neg."""
    domain = jnp.where(early, uncond, uncond - negative)
    return domain + guidance_scale * (cond - uncond)


def nfsd(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "sigma2",
    switch_time: int = 200,
) -> Estimator:
    """Makes Noise-Free Score Distillation (NFSD).

    guidance_scale: s; switch_time: the timestep below which d_D = e_0. It needs a
    negative prompt that means something (without one e_neg is e_0 and d_D vanishes
    above it). guidance_rescale: of e_s = e_0 + s h, which d_D + s h is but for e_neg
    (`common.guidance`). aux: norms of e_y, h and d_D. Raises ValueError for a negative
    switch_time or a rescale outside 0..1.
    """
    rescaled = guidance(schedule, guidance_scale, guidance_rescale)
    if switch_time < 0:
        raise ValueError(f"nfsd: switch_time = {switch_time} must be >= 0")

    def direction(prior, key, state, z, t, view):
        _, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=("cond", "uncond", "negative"))
        early = t < switch_time
        d = nfsd_direction(e.cond, e.uncond, e.negative, early, guidance_scale)
        if guidance_rescale:
            plain = guide(e.cond, e.uncond, guidance_scale)
            d = d + rescaled(z_t, t, e.cond, e.uncond) - plain
        domain = jnp.where(early, e.uncond, e.uncond - e.negative)
        return d, {**term_norms(e.cond, e.uncond), "domain_norm": norm(domain)}

    return from_direction(schedule, direction, weighting)
