"""DDIM inversion: the noise that a deterministic sampler would have started from.

From z_s at time s, zhat = (z_s - sigma_s e) / alpha_s and z_s' = alpha_s' zhat +
sigma_s' e with e predicted at s; s' >= s, and s' = s changes nothing. Time -1 is a
clean z (alpha 1, sigma 0), shown to the network at time 0.
Source: DDIM (arXiv 2010.02502), eq. 12 with eta 0, run upwards.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.diffusion import alpha_sigma


def _level(schedule, t, dtype):
    alpha, sigma = alpha_sigma(schedule, jnp.maximum(t, 0), dtype)
    clean = t < 0
    return jnp.where(clean, jnp.ones_like(alpha), alpha), jnp.where(
        clean, jnp.zeros_like(sigma), sigma
    )


def renoise(schedule, z_s, eps_hat, s, s_next) -> jax.Array:
    """Moves z_s along eps_hat to the time s_next >= s, z_s's shape; s = -1 is clean."""
    alpha, sigma = _level(schedule, s, z_s.dtype)
    alpha_next, sigma_next = _level(schedule, s_next, z_s.dtype)
    zhat = (z_s - sigma * eps_hat) / alpha
    return alpha_next * zhat + sigma_next * eps_hat


def invert(schedule, predict, z_start, times) -> jax.Array:
    """Carries z_start at times[0] up to times[-1] by DDIM inversion.

    predict: (z_s, s) -> eps_hat, called len(times) - 1 times; times [n + 1] int32,
    never falling.
    """

    def body(z_s, pair):
        s, s_next = pair
        eps_hat = predict(z_s, jnp.maximum(s, 0))
        return renoise(schedule, z_s, eps_hat, s, s_next), None

    z_end, _ = jax.lax.scan(body, z_start, (times[:-1], times[1:]))
    return z_end
