"""Interval Score Matching: e_s(z_t) - e_0(z_u), u = t - delta, along DDIM inversion.

z is noised with eps to the time s_0 = max(u - n stride, 0), carried up to u in n
deterministic steps with e_0, and one more step of e_0(z_u) leads to z_t. No fresh noise
is subtracted: the two predictions share their path. With n = 0, z_u is simply z noised.
Source: LucidDreamer (arXiv 2311.11284), eqs. 10-17; their noise carries a channel
offset of 0.1, which is not N(0, I) and is left out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, Weighting, add_noise
from sdsjax.estimators.common import (
    check_time,
    draw_noise,
    from_direction,
    guidance,
    term_norms,
)
from sdsjax.estimators.inversion import invert, renoise
from sdsjax.math import norm
from sdsjax.types import Estimator


def ism_direction(guided, interval_start) -> jax.Array:
    """Returns e_s(z_t) - e_0(z_u), z's shape (eq. 17)."""
    return guided - interval_start


def inversion_times(u, steps: int, stride: int) -> jax.Array:
    """Returns max(u - (steps - i) stride, 0) for i = 0..steps, int32 [steps + 1]."""
    back = jnp.arange(steps, -1, -1, dtype=jnp.int32) * stride
    return jnp.maximum(jnp.asarray(u, jnp.int32) - back, 0)


def ism(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "sigma_over_alpha",
    delta: int = 80,
    steps: int = 5,
    stride: int = 200,
) -> Estimator:
    """Makes Interval Score Matching (ISM).

    delta: t - u (LucidDreamer: 100 falling to 80); steps, stride: n inversion steps of
    `stride` below u; guidance_rescale: see `common.guidance`. Cost: n calls of e_0,
    then e_0(z_u), e_y and e_0 at z_t. aux: norms of e_y and h at z_t and of e_0(z_u).
    Raises ValueError for delta or stride below 1, negative steps or a rescale outside
    0..1.
    """
    guided = guidance(schedule, guidance_scale, guidance_rescale)
    if delta < 1 or stride < 1 or steps < 0:
        raise ValueError(
            f"ism: delta = {delta} and stride = {stride} must be at least 1, steps = "
            f"{steps} at least 0"
        )

    def direction(prior, key, state, z, t, view):
        check_time(schedule, t)

        def unconditional(z_s, s):
            return prior.noise(z_s, s, view, branches=("uncond",)).uncond

        u = jnp.maximum(jnp.asarray(t, jnp.int32) - delta, 0)
        times = inversion_times(u, steps, stride)
        eps, _ = draw_noise(schedule, key, z, t)
        z_u = add_noise(schedule, z, eps, times[0])
        if steps:
            z_u = invert(schedule, unconditional, z_u, times)
        start = unconditional(z_u, u)
        z_t = renoise(schedule, z_u, start, u, t)
        e = prior.noise(z_t, t, view, branches=("cond", "uncond"))
        d = ism_direction(guided(z_t, t, e.cond, e.uncond), start)
        return d, {**term_norms(e.cond, e.uncond), "start_norm": norm(start)}

    return from_direction(schedule, direction, weighting)
