"""Noise schedules, the forward process, and what follows from a noise prediction.

Notation: z_t = alpha_t z + sigma_t eps, eps ~ N(0, I), t in 0..T-1 (T = 1000).
Variance preserving: alpha_t^2 + sigma_t^2 = 1, alpha_t = sqrt(alphas_cumprod_t). Flow
matching: alpha_t = 1 - s, sigma_t = s, s in (0, 1) the network's time, t its index.
Only `from_betas`, `velocity_to_noise` and `network_time` know which; all else holds for
any pair.
Guidance: e_s = e_0 + s (e_y - e_0), s = `guidance_scale` (s = 1: no guidance;
DreamFusion's and SSD's omega is s - 1). Arrays in, arrays out.
Sources: DDPM arXiv 2006.11239; scaled-linear arXiv 2112.10752; cosine arXiv 2102.09672;
v-prediction arXiv 2202.00512; flow matching and its shift arXiv 2403.03206; weights
w(t) as in each estimator's paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Weighting = str | Callable[[jax.Array, jax.Array], jax.Array]


class NoiseSchedule(NamedTuple):
    """A noise schedule of T timesteps, variance preserving or not.

    alphas [T] > 0 and sigmas [T] > 0, both float32; alphas fall and sigmas rise.
    """

    alphas: jax.Array
    sigmas: jax.Array

    @property
    def num_steps(self) -> int:
        """The number T of timesteps."""
        return self.alphas.shape[0]

    @property
    def straight(self) -> bool:
        """Whether it is flow matching's: alphas + sigmas = 1 (of known arrays only)."""
        total = np.asarray(self.alphas) + np.asarray(self.sigmas)
        return bool(np.abs(total - 1.0).max() < 1e-5)

    def network_time(self, t: jax.Array) -> jax.Array:
        """Returns what a network is told of t: t itself, in flow matching T s."""
        return self.num_steps * self.sigmas[t] if self.straight else t

    @classmethod
    def from_betas(cls, betas) -> NoiseSchedule:
        """Makes a schedule from DDPM's per-step variances [T], in float64."""
        cumprod = np.cumprod(1.0 - np.asarray(betas, np.float64))
        return cls(
            jnp.asarray(np.sqrt(cumprod), jnp.float32),
            jnp.asarray(np.sqrt(1.0 - cumprod), jnp.float32),
        )

    @classmethod
    def scaled_linear(
        cls, num_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> NoiseSchedule:
        """Makes Stable Diffusion's schedule: sqrt(beta) linear in t."""
        return cls.from_betas(
            np.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=np.float64)
            ** 2
        )

    @classmethod
    def linear(
        cls, num_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> NoiseSchedule:
        """Makes DDPM's schedule: beta linear in t."""
        return cls.from_betas(np.linspace(beta_start, beta_end, num_steps))

    @classmethod
    def squaredcos_cap_v2(
        cls, num_steps: int = 1000, max_beta: float = 0.999
    ) -> NoiseSchedule:
        """Makes Improved DDPM's cosine schedule, beta capped (DeepFloyd IF)."""

        def remaining(u):
            return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

        u = np.arange(num_steps) / num_steps
        betas = 1.0 - remaining(u + 1.0 / num_steps) / remaining(u)
        return cls.from_betas(np.minimum(betas, max_beta))

    @classmethod
    def flow_matching(cls, num_steps: int = 1000, shift: float = 3.0) -> NoiseSchedule:
        """Makes flow matching's schedule: alpha = 1 - s, sigma = s.

        s = shift u / (1 + (shift - 1) u) with u = (t + 1) / T (Stable Diffusion 3,
        arXiv 2403.03206, sec. 5.3.2): as FlowMatchEulerDiscreteScheduler has it, but
        for the last, u = 1, which holds no z at all and becomes u = 1 - 1 / (2 T).
        Raises ValueError for a shift that is not positive.
        """
        if not shift > 0:
            raise ValueError(f"flow_matching: shift = {shift} must be positive")
        u = (np.arange(num_steps, dtype=np.float64) + 1.0) / num_steps
        u[-1] = 1.0 - 0.5 / num_steps
        total = 1.0 + (shift - 1.0) * u
        return cls(
            jnp.asarray((1.0 - u) / total, jnp.float32),
            jnp.asarray(shift * u / total, jnp.float32),
        )


def add_noise(
    schedule: NoiseSchedule, z: jax.Array, eps: jax.Array, t: jax.Array
) -> jax.Array:
    """Returns z_t = alpha_t z + sigma_t eps, in z's dtype; t a scalar."""
    alpha, sigma = alpha_sigma(schedule, t, z.dtype)
    return alpha * z + sigma * eps


def alpha_sigma(schedule: NoiseSchedule, t: jax.Array, dtype=jnp.float32):
    """Returns (alpha_t, sigma_t) in `dtype`."""
    return schedule.alphas[t].astype(dtype), schedule.sigmas[t].astype(dtype)


def denoised(
    schedule: NoiseSchedule, z_t: jax.Array, eps_hat: jax.Array, t: jax.Array
) -> jax.Array:
    """Returns zhat = (z_t - sigma_t eps_hat) / alpha_t, the one-step estimate of z."""
    alpha, sigma = alpha_sigma(schedule, t, z_t.dtype)
    return (z_t - sigma * eps_hat) / alpha


def velocity_to_noise(
    schedule: NoiseSchedule, z_t: jax.Array, velocity: jax.Array, t: jax.Array
) -> jax.Array:
    """Returns the noise in a prediction of velocity, z_t's shape.

    v is the derivative of z_t along its path. On a variance-preserving schedule v =
    alpha_t eps - sigma_t z and eps = alpha_t v + sigma_t z_t (progressive distillation,
    arXiv 2202.00512); in flow matching v = eps - z and eps = z_t + alpha_t v.
    """
    alpha, sigma = alpha_sigma(schedule, t, z_t.dtype)
    if schedule.straight:
        return z_t + alpha * velocity
    return alpha * velocity + sigma * z_t


def ddim_step(
    schedule: NoiseSchedule,
    z_t: jax.Array,
    eps_hat: jax.Array,
    t: jax.Array,
    t_next: jax.Array,
) -> jax.Array:
    """Takes a deterministic DDIM step from t to t_next; t_next < 0 gives zhat.

    Source: arXiv 2010.02502, eq. 12, eta 0. In flow matching it is Euler's step: z_t +
    (s' - s) v.
    """
    zhat = denoised(schedule, z_t, eps_hat, t)
    alpha, sigma = alpha_sigma(schedule, jnp.maximum(t_next, 0), z_t.dtype)
    stepped = alpha * zhat + sigma * eps_hat
    return jnp.where(t_next < 0, zhat, stepped)


# A schedule by name, of the priors that bring none along.
SCHEDULES: dict[str, Callable[[], NoiseSchedule]] = {
    "scaled_linear": NoiseSchedule.scaled_linear,
    "linear": NoiseSchedule.linear,
    "squaredcos_cap_v2": NoiseSchedule.squaredcos_cap_v2,
    "flow_matching": NoiseSchedule.flow_matching,
}

WEIGHTINGS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "one": lambda alpha, sigma: jnp.ones_like(alpha),
    "sigma2": lambda alpha, sigma: sigma**2,
    "sigma_alpha": lambda alpha, sigma: sigma * alpha,
    "alpha_over_sigma": lambda alpha, sigma: alpha / sigma,
    "sigma_over_alpha": lambda alpha, sigma: sigma / alpha,
    "fantasia": lambda alpha, sigma: alpha * sigma**2,
}


def weight_function(
    schedule: NoiseSchedule, weighting: Weighting
) -> Callable[[jax.Array], jax.Array]:
    """Makes w(t) of a name (a key of WEIGHTINGS) or of a callable (alpha, sigma) -> w.

    Raises ValueError for an unknown name.
    """
    if isinstance(weighting, str):
        if weighting not in WEIGHTINGS:
            raise ValueError(
                f"unknown weighting {weighting!r}: choose one of "
                f"{', '.join(WEIGHTINGS)} or pass a callable (alpha, sigma) -> w"
            )
        weighting = WEIGHTINGS[weighting]
    weights = jnp.asarray(weighting(schedule.alphas, schedule.sigmas), jnp.float32)
    table = jnp.broadcast_to(weights, schedule.alphas.shape)
    return lambda t: table[t]
