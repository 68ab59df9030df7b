"""SDS as an L2 loss: the descent direction z - zhat towards the denoised z.

zhat, stop-gradient, is (z_t - sigma_t e_s) / alpha_t, or the end of n DDIM steps at
tau = t, t - stride, ... >= 0, the last landing on z_0 (HiFA: stride 250, eta 1, n = 4,
so 4 network calls at t = 980 and 2 at t = 300). In one step z - zhat = (sigma_t /
alpha_t)(e_s - eps), so that weighting "sigma_alpha" is SDS at "sigma2".
n is static and later steps are masked: every sample pays for n calls.
Sources: StableDreamer (arXiv 2312.02189), HiFA eqs. 2-3 and alg. 1 (arXiv 2305.18766),
DDIM eq. 12 and 16 (arXiv 2010.02502). Losses are sums / 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, Weighting, alpha_sigma, denoised
from sdsjax.estimators.common import (
    draw_noise,
    from_direction,
    guidance,
    key_rest,
    term_norms,
)
from sdsjax.math import norm
from sdsjax.types import Estimator

# the branches that guidance may lead away from
AWAY_FROM = ("uncond", "negative")


def stochastic_step(schedule, z_t, eps_hat, xi, t, t_next, eta: float) -> jax.Array:
    """Takes a DDIM step from t to t_next < t with fresh noise xi ~ N(0, I).

    eta: 0 deterministic, 1 as DDPM: the deviation of z_t' given z_t and z, sigma'
    sqrt(1 - q^2) with q = (alpha sigma') / (alpha' sigma), for any schedule (on a
    variance-preserving one it is arXiv 2010.02502, eqs. 12 and 16); t_next < 0 gives
    zhat.
    """
    zhat = denoised(schedule, z_t, eps_hat, t)
    alpha, sigma = alpha_sigma(schedule, t, z_t.dtype)
    lower = jnp.clip(t_next, 0, t)
    alpha_next, sigma_next = alpha_sigma(schedule, lower, z_t.dtype)
    q = alpha * sigma_next / (alpha_next * sigma)
    fresh = eta * sigma_next * jnp.sqrt(jnp.maximum(1.0 - q**2, 0.0))
    kept = jnp.sqrt(jnp.maximum(sigma_next**2 - fresh**2, 0.0))
    stepped = alpha_next * zhat + kept * eps_hat + fresh * xi
    return jnp.where(t_next < 0, zhat, stepped)


def denoise(schedule, predict, key, z_t, t, *, steps: int, stride: int, eta: float):
    """Returns zhat after at most `steps` DDIM steps.

    predict: (z_tau, tau) -> e_s.
    """

    def body(carry, key_xi):
        z_tau, tau = carry
        active = tau >= 0
        now = jnp.maximum(tau, 0)
        xi = jax.random.normal(key_xi, z_t.shape, z_t.dtype)
        after = jnp.where(remaining(tau), tau - stride, -1)
        stepped = stochastic_step(
            schedule, z_tau, predict(z_tau, now), xi, now, after, eta
        )
        after = jnp.where(active, after, -1)
        return (jnp.where(active, stepped, z_tau), after), None

    def remaining(tau):
        # the last of the n steps lands on z_0 wherever it starts
        return tau > t - (steps - 1) * stride

    start = (z_t, jnp.asarray(t, jnp.int32))
    (zhat, _), _ = jax.lax.scan(body, start, jax.random.split(key, steps))
    return zhat


def _check(steps: int, stride: int, eta: float, away_from: str) -> None:
    if away_from not in AWAY_FROM:
        raise ValueError(
            f"denoised_l2: unknown away_from {away_from!r}: choose one of "
            f"{', '.join(AWAY_FROM)}"
        )
    if steps < 1 or stride < 1:
        raise ValueError(
            f"denoised_l2: steps = {steps} and stride = {stride} must be at least 1"
        )
    if not 0 <= eta <= 1:
        raise ValueError(f"denoised_l2: eta = {eta} must be in 0..1")


def denoised_l2(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 100.0,
    guidance_rescale: float = 0.0,
    away_from: str = "uncond",
    weighting: Weighting = "sigma_alpha",
    steps: int = 1,
    stride: int = 250,
    eta: float = 1.0,
) -> Estimator:
    """Makes SDS as an L2 loss, whose direction is z - zhat.

    steps: n >= 1; stride: timesteps between two; eta: 0..1, fresh noise;
    guidance_rescale: see `common.guidance`. away_from: "uncond", or "negative": e_neg
    stands in the place of e_0, as in MVDream's code (arXiv 2308.16512). aux: norms of
    e_y and h (one step), or of d = (alpha/sigma)(z - zhat). Raises ValueError outside
    these ranges.
    """
    guided = guidance(schedule, guidance_scale, guidance_rescale)
    _check(steps, stride, eta, away_from)
    both = ("cond", away_from)

    def one_step(prior, key, state, z, t, view):
        eps, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=both)
        pair = e.cond, getattr(e, away_from)
        # the same as (alpha / sigma)(z - zhat), without the cancellation
        return guided(z_t, t, *pair) - eps, term_norms(*pair)

    def many_steps(prior, key, state, z, t, view):
        _, z_t = draw_noise(schedule, key, z, t)

        def predict(z_tau, tau):
            e = prior.noise(z_tau, tau, view, branches=both)
            return guided(z_tau, tau, e.cond, getattr(e, away_from))

        zhat = denoise(
            schedule,
            predict,
            key_rest(key),
            z_t,
            t,
            steps=steps,
            stride=stride,
            eta=eta,
        )
        alpha, sigma = alpha_sigma(schedule, t, z.dtype)
        d = alpha / sigma * (z - jax.lax.stop_gradient(zhat))
        return d, {"noise_norm": norm(d)}

    direction = one_step if steps == 1 else many_steps
    return from_direction(schedule, direction, weighting, residual=True)
