"""An exact prior: a mixture of Gaussians in any dimension, with every score known.

p(z) = sum_k w_k N(z; m_k, v_k I), so p(z_t) = sum_k w_k N(z_t; alpha m_k, alpha^2 v_k +
sigma^2) and e(z_t) = -sigma grad log p(z_t)
 = sigma sum_k r_k(z_t) (z_t - alpha m_k) / (alpha^2 v_k + sigma^2), r_k the posterior
weights. The prompt keeps the components of `conditional`; with no prompt all remain
(Stable Score Distillation, sec. 13).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, alpha_sigma
from sdsjax.types import Adapter, NoisePrediction, Prior


def mixture_noise(z_t, alpha, sigma, log_weights, means, variances):
    """Computes the exact noise prediction, z_t's shape.

    z_t [...]; log_weights [k] (-inf removes a component); means [k ...]; variances [k]
    or broadcastable to means.
    """
    total = alpha**2 * variances + sigma**2
    offset = z_t[None] - alpha * means
    axes = tuple(range(1, means.ndim))
    total = jnp.broadcast_to(total, means.shape)
    logits = log_weights - 0.5 * jnp.sum(offset**2 / total + jnp.log(total), axes)
    posterior = jax.nn.softmax(logits)
    return sigma * jnp.tensordot(posterior, offset / total, axes=1)


class AffineAdapter(NamedTuple):
    """The psi of the small second network: a Gaussian.

    mean [...] and log_variance []; its exact noise prediction is affine in z_t.
    """

    mean: jax.Array
    log_variance: jax.Array


def affine_adapter(schedule: NoiseSchedule, shape: tuple[int, ...]) -> Adapter:
    """Makes the adapter that is one learnable Gaussian of `shape`.

    It is enough for VSD's second network on an exact prior; the same for every view.
    """

    def init(key):
        del key
        return AffineAdapter(jnp.zeros(shape), jnp.zeros(()))

    def noise(psi, z_t, t, view):
        del view
        alpha, sigma = alpha_sigma(schedule, t, z_t.dtype)
        mean, variance = psi.mean, jnp.exp(psi.log_variance)
        total = alpha**2 * variance.astype(z_t.dtype) + sigma**2
        return sigma * (z_t - alpha * mean.astype(z_t.dtype)) / total

    return Adapter(init, noise)


def check_conditional(conditional, count: int, what: str) -> jax.Array:
    """Returns a boolean mask [count] with at least one True, else raises ValueError."""
    mask = jnp.asarray(conditional, bool)
    if mask.shape != (count,):
        raise ValueError(
            f"{what}: conditional has shape {mask.shape}, expected ({count},)"
        )
    if not isinstance(mask, jax.core.Tracer) and not bool(mask.any()):
        raise ValueError(f"{what}: conditional keeps nothing; let one entry be True")
    return mask


def gaussian_mixture(
    schedule: NoiseSchedule, weights, means, variances, conditional, *, negative=None
) -> Prior:
    """Makes an exact mixture prior; encode and decode are the identity.

    weights [k] positive (normalised here); means [k ...]; variances [k] or
    broadcastable to means; conditional, negative: boolean masks [k] of the components
    that the prompt and the negative prompt keep (negative None: all of them). Raises
    ValueError for shapes that do not fit.
    """
    means = jnp.asarray(means)
    means = means.astype(jnp.result_type(means, jnp.float32))
    weights = jnp.asarray(weights, means.dtype)
    variances = jnp.asarray(variances, means.dtype)
    count = means.shape[0]
    if weights.shape != (count,):
        raise ValueError(
            f"gaussian_mixture: {count} means but weights of shape {weights.shape}"
        )
    if variances.shape == (count,):
        variances = variances.reshape((count,) + (1,) * (means.ndim - 1))
    kept = check_conditional(conditional, count, "gaussian_mixture")
    everything = jnp.ones(count, bool)
    masks = {"cond": kept, "uncond": everything, "negative": everything}
    if negative is not None:
        masks["negative"] = check_conditional(negative, count, "gaussian_mixture")
    log_weights = jnp.log(weights / jnp.sum(weights))

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        del view
        alpha, sigma = alpha_sigma(schedule, t, z_t.dtype)
        out = {}
        for branch in branches:
            logits = jnp.where(masks[branch], log_weights, -jnp.inf)
            fitted = (a.astype(z_t.dtype) for a in (logits, means, variances))
            eps = mixture_noise(z_t, alpha, sigma, *fitted)
            out[branch] = eps.astype(z_t.dtype)
        return NoisePrediction(**out)

    return Prior(
        schedule=schedule,
        noise=noise,
        encode=lambda x: x,
        decode=lambda z: z,
        adapter=affine_adapter(schedule, means.shape[1:]),
    )
