"""Score Distillation via Inversion: SDS with eps replaced by DDIM-inverted noise.

z is carried from clean to t in n deterministic steps with the prediction guided by
`inversion_scale` (negative: away from the prompt), and kappa = (z_t - alpha_t z) /
sigma_t is the noise found. eps' = sqrt(1 - eta^2) kappa + eta eps, z_t' = alpha_t z +
sigma_t eps' and the direction is e_s(z_t') - eps'. eta = 1 is SDS, eta = 0 inversion
alone. The authors add noise inside the inversion steps; mixing it in once keeps eps'
of unit scale (unverified against their code).
Source: Lukoianov et al., Score Distillation via Reparametrized DDIM (arXiv 2405.15891).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, Weighting, add_noise, alpha_sigma, guide
from sdsjax.estimators.common import (
    draw_noise,
    from_direction,
    guidance,
    term_norms,
)
from sdsjax.estimators.inversion import invert
from sdsjax.math import norm
from sdsjax.types import Estimator


def inversion_times(t, steps: int) -> jax.Array:
    """Returns -1 (clean), then t i / steps rounded, i = 1..steps: int32 [steps + 1]."""
    t = jnp.asarray(t, jnp.int32)
    rising = (t * jnp.arange(1, steps + 1, dtype=jnp.int32)) // steps
    return jnp.concatenate([jnp.full((1,), -1, jnp.int32), rising])


def found_noise(z, z_t, alpha, sigma) -> jax.Array:
    """Returns the noise kappa = (z_t - alpha z) / sigma, z's shape."""
    return (z_t - alpha * z) / sigma


def sdi(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "sigma2",
    inversion_scale: float = -7.5,
    steps: int = 10,
    eta: float = 0.3,
) -> Estimator:
    """Makes Score Distillation via Inversion (SDI).

    inversion_scale: the guidance scale s of the inversion; steps: n; eta: the share of
    fresh noise, 0..1; guidance_rescale: of e_s, not of the inversion (see
    `common.guidance`). Cost: n + 1 calls of both branches. aux: norms of e_y, h and
    eps'. Raises ValueError outside these ranges.
    """
    guided = guidance(schedule, guidance_scale, guidance_rescale)
    if steps < 1:
        raise ValueError(f"sdi: steps = {steps} must be at least 1")
    if not 0 <= eta <= 1:
        raise ValueError(f"sdi: eta = {eta} must be in 0..1 (1: SDS)")
    kept, both = (1.0 - eta**2) ** 0.5, ("cond", "uncond")

    def direction(prior, key, state, z, t, view):
        eps, _ = draw_noise(schedule, key, z, t)
        alpha, sigma = alpha_sigma(schedule, t, z.dtype)

        def predict(z_s, s):
            e = prior.noise(z_s, s, view, branches=both)
            return guide(e.cond, e.uncond, inversion_scale)

        z_t = invert(schedule, predict, z, inversion_times(t, steps))
        eps = kept * found_noise(z, z_t, alpha, sigma) + eta * eps
        z_t = add_noise(schedule, z, eps, t)
        e = prior.noise(z_t, t, view, branches=both)
        d = guided(z_t, t, e.cond, e.uncond) - eps
        return d, {**term_norms(e.cond, e.uncond), "noise_norm": norm(eps)}

    return from_direction(schedule, direction, weighting)
