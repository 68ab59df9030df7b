"""SSD with traced settings: its rescaling and its reduction, and M."""

from __future__ import annotations

import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators.common import draw_noise, from_direction
from sdsjax.estimators.ssd import projection_ratio, ssd_direction
from sdsjax.types import Estimator

# name: (rescale, share of r subtracted, share of 1 subtracted)
VARIANTS = {
    "SSD": (1.0, 1.0, 0.0),
    "not rescaled": (0.0, 1.0, 0.0),
    "- eps": (1.0, 0.0, 1.0),
    "no reduction": (1.0, 0.0, 0.0),
}


def ssd_at(
    schedule: NoiseSchedule, threshold, rescale, share_r, share_one
) -> Estimator:
    """`ESTIMATORS["ssd"]` with traced settings, so that one compilation serves all."""

    def direction(prior, key, state, z, t, view):
        del state
        eps, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view)
        ratio = share_r * projection_ratio(e.cond, eps) + share_one
        seek = t <= threshold
        scaled, plain = (
            ssd_direction(e.cond, e.uncond, eps, seek, ratio, flag)
            for flag in (True, False)
        )
        return jnp.where(rescale > 0, scaled, plain), {}

    return from_direction(schedule, direction, "sigma2")
