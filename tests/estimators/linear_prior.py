"""A prior whose three predictions are affine in the noise, so that every estimator has
closed-form moments: one Gaussian N(m, tau2) a branch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.priors.gaussian_mixture import affine_adapter
from sdsjax.types import NoisePrediction, Prior

SCHEDULE = NoiseSchedule.scaled_linear()
MEANS = {"cond": (1.0, -0.5), "uncond": (0.2, 0.3), "negative": (-1.0, 0.4)}
VARIANCES = {"cond": 0.3, "uncond": 0.8, "negative": 0.5}


def level(t: int) -> tuple[float, float]:
    """(alpha_t, sigma_t) as numbers."""
    alpha, sigma = (float(np.asarray(of)[t]) for of in SCHEDULE)
    return alpha, sigma


def gaussian_noise(z_t, alpha, sigma, mean, variance):
    return sigma * (z_t - alpha * mean) / (alpha**2 * variance + sigma**2)


def slope(branch: str, t: int) -> float:
    """k: e = k eps + offset at z_t = alpha z + sigma eps; it is c* as well."""
    alpha, sigma = level(t)
    return sigma**2 / (alpha**2 * VARIANCES[branch] + sigma**2)


def offset(branch: str, t: int, z) -> np.ndarray:
    """E[e] = k alpha (z - m) / sigma."""
    alpha, sigma = level(t)
    return (
        slope(branch, t) * alpha * (np.asarray(z) - np.asarray(MEANS[branch])) / sigma
    )


@partial(jax.jit, static_argnames="branches")
def all_noise(schedule, z_t, t, branches) -> NoisePrediction:
    """Compiled whole, for the tests that call an estimator operation by operation."""
    alpha, sigma = schedule.alphas[t], schedule.sigmas[t]
    out = {
        name: gaussian_noise(
            z_t, alpha, sigma, jnp.asarray(MEANS[name]), VARIANCES[name]
        )
        for name in branches
    }
    return NoisePrediction(**out)


def linear_prior(schedule: NoiseSchedule | None = None) -> Prior:
    """In two dimensions; encode and decode the identity."""
    schedule = schedule or SCHEDULE

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        return all_noise(schedule, z_t, t, branches)

    adapter = affine_adapter(schedule, (2,))
    return Prior(schedule, noise, lambda x: x, lambda z: z, adapter=adapter)
