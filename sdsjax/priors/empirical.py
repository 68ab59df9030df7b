"""An exact prior at image scale: the optimal denoiser of a finite set of images.

p(z) = (1/n) sum_i delta(z - x_i): E[z | z_t] = sum_i p_i x_i with p = softmax(-|z_t -
alpha x_i|^2 / (2 sigma^2)), and e(z_t) = (z_t - alpha E[z | z_t]) / sigma, no training.
The prompt keeps the images of `conditional`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, alpha_sigma
from sdsjax.priors.gaussian_mixture import affine_adapter, check_conditional
from sdsjax.types import NoisePrediction, Prior


def squared_distances(z_t, images, alpha, chunk: int = 256) -> jax.Array:
    """Returns |z_t - alpha x_i|^2 [n], by differences, `chunk` images at a time.

    The expanded square would lose all its digits at small sigma; chunks bound the
    memory.
    """
    return jax.lax.map(
        lambda image: jnp.sum((z_t - alpha * image.astype(z_t.dtype)) ** 2),
        images,
        batch_size=min(chunk, images.shape[0]),
    )


def empirical(schedule: NoiseSchedule, images, conditional, *, negative=None) -> Prior:
    """Makes the prior whose noise prediction is the optimal denoiser of some images.

    images [n h w c] in [-1, 1]; encode and decode are the identity. conditional,
    negative: boolean masks [n] (negative None: all). Raises ValueError for masks that
    do not fit.
    """
    images = jnp.asarray(images)
    count = images.shape[0]
    kept = check_conditional(conditional, count, "empirical")
    everything = jnp.ones(count, bool)
    masks = {"cond": kept, "uncond": everything, "negative": everything}
    if negative is not None:
        masks["negative"] = check_conditional(negative, count, "empirical")

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        del view
        alpha, sigma = alpha_sigma(schedule, t, z_t.dtype)
        logits = -squared_distances(z_t, images, alpha) / (2.0 * sigma**2)
        out = {}
        for branch in branches:
            posterior = jax.nn.softmax(jnp.where(masks[branch], logits, -jnp.inf))
            mean = jnp.tensordot(posterior, images.astype(z_t.dtype), axes=1)
            out[branch] = (z_t - alpha * mean) / sigma
        return NoisePrediction(**out)

    return Prior(
        schedule=schedule,
        noise=noise,
        encode=lambda x: x,
        decode=lambda z: z,
        adapter=affine_adapter(schedule, images.shape[1:]),
    )
