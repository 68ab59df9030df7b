"""Posterior Distillation Sampling (arXiv 2311.13831, eqs. 9-13).

d = psi (z - z') + chi (e(z_t; y, t) - e(z'_t; y', t)).
"""

from __future__ import annotations

import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, Weighting, alpha_sigma
from sdsjax.estimators.common import from_direction, guidance
from sdsjax.estimators.editing.pairs import check_source, compare
from sdsjax.types import Estimator


def posterior_weights(schedule: NoiseSchedule, t, stride: int, dtype=jnp.float32):
    """Returns (psi, chi) of PDS, scalars; times below 0 count as 0.

    beta = 1 - (alpha_t / alpha_(t-1))^2, one step's whatever the stride.
    """
    s, before = jnp.maximum(t - stride, 0), jnp.maximum(t - 1, 0)
    alpha, sigma = alpha_sigma(schedule, t)
    alpha_s, sigma_s = alpha_sigma(schedule, s)
    alpha_before = jnp.where(t > 0, alpha_sigma(schedule, before)[0], 1.0)
    kept = (alpha / alpha_before) ** 2
    beta = 1.0 - kept
    gamma = alpha_s * beta / sigma**2
    delta = jnp.sqrt(kept) * sigma_s**2 / sigma**2
    deviation = sigma_s / sigma * jnp.sqrt(beta)
    psi = (alpha_s - gamma - delta * alpha) / deviation
    chi = gamma * sigma / (alpha * deviation)
    return psi.astype(dtype), chi.astype(dtype)


def pds(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 100.0,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "one",
    stride: int = 2,
) -> Estimator:
    """Makes Posterior Distillation Sampling (PDS), for editing.

    guidance_scale s: of both prompts, as published; stride: t - s in steps of the
    schedule (2: as published; 1: no pull towards the source); guidance_rescale: see
    `common.guidance`. aux: norms of e_y, h = e_y - e_0 and z - z'. Raises ValueError
    for a stride below 1, and in `init` for a prior without a source.
    """
    if stride < 1:
        raise ValueError(f"pds: stride = {stride} must be at least 1")
    guided = guidance(schedule, guidance_scale, guidance_rescale)

    def direction(prior, key, state, z, t, view):
        pair = compare(schedule, guided, prior, key, z, t, view)
        psi, chi = posterior_weights(schedule, t, stride, z.dtype)
        return psi * pair.moved + chi * pair.difference, pair.aux

    return from_direction(schedule, direction, weighting, init=check_source("pds"))
