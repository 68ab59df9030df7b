"""Posterior Distillation Sampling (arXiv 2311.13831, eqs. 9-13).

d = psi (z - z') + chi (e(z_t; y, t) - e(z'_t; y', t)). It was published for
variance-preserving diffusion; the posterior's mean and variance in general (arXiv
2107.00630, appendix A) give it for flow matching too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule, Weighting
from sdsjax.estimators.common import from_direction, guidance
from sdsjax.estimators.editing.pairs import check_source, compare
from sdsjax.types import Estimator


def posterior_weights(
    schedule: NoiseSchedule, stride: int
) -> tuple[jax.Array, jax.Array]:
    """Returns (psi, chi) of PDS at every time of a schedule, [T] each.

    Of the posterior q(z_s | z_t, z) for any alpha and sigma: beta = sigma_t^2 -
    (alpha_t / alpha_(t-1))^2 sigma_(t-1)^2 is the variance that one step adds, whatever
    the stride; it is 1 - (alpha_t / alpha_(t-1))^2 on a variance-preserving schedule.
    Times s below 0 count as 0, and t = 0, before which there is nothing, as 1.
    """
    alphas, sigmas = (np.asarray(a, np.float64) for a in schedule)
    t = np.maximum(np.arange(len(alphas)), 1)
    s = np.maximum(t - stride, 0)
    alpha, sigma, alpha_s, sigma_s = alphas[t], sigmas[t], alphas[s], sigmas[s]
    kept = alpha / alphas[t - 1]
    beta = sigma**2 - (kept * sigmas[t - 1]) ** 2
    gamma = alpha_s * beta / sigma**2
    delta = kept * sigma_s**2 / sigma**2
    deviation = sigma_s / sigma * np.sqrt(beta)
    psi = (alpha_s - gamma - delta * alpha) / deviation
    chi = gamma * sigma / (alpha * deviation)
    return jnp.asarray(psi, jnp.float32), jnp.asarray(chi, jnp.float32)


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
    weights = posterior_weights(schedule, stride)

    def direction(prior, key, state, z, t, view):
        pair = compare(schedule, guided, prior, key, z, t, view)
        psi, chi = (weight[t].astype(z.dtype) for weight in weights)
        return psi * pair.moved + chi * pair.difference, pair.aux

    return from_direction(schedule, direction, weighting, init=check_source("pds"))
