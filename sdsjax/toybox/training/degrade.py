"""Pictures as optimisation shows them early: faded, blurred, blotchy, noised.

x `[b h w 3]` in [-1, 1]; the result may leave that range, as z_t's pictures do. Each
function draws its own amount for every picture of the batch. What a monocular network
is asked about in SteinDreamer (arXiv 2401.00604) is the decoded noisy latent D(z_t),
dimmed by alpha_t and noised by sigma_t; the rendering beneath it is at first half
transparent and soft.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule

SOFTEST = 2.5  # pixels of a picture 64 wide: the widest blur's standard deviation
FAINTEST = 0.25  # the least opacity
BLOTCHES = 0.25  # the greatest standard deviation of the noise on a rendering


def _blur_matrix(size: int, deviation):
    """`[b size size]` rows of a Gaussian, each summing to 1: edges take from within."""
    place = jnp.arange(size, dtype=jnp.float32)
    square = (place[:, None] - place) ** 2
    # 0.1 pixels: below that the matrix is the identity to float32
    wide = jnp.maximum(deviation, 0.1)[:, None, None]
    kernel = jnp.exp(-0.5 * square / wide**2)
    return kernel / kernel.sum(-1, keepdims=True)


def blur(x, deviation):
    """Gaussian blur by a standard deviation `[b]` in pixels."""
    down, across = (_blur_matrix(size, deviation) for size in x.shape[1:3])
    return jnp.einsum("bih,bhwc,bjw->bijc", down, x, across)


def _spread(amount):
    return amount[:, None, None, None]


def early_render(key, x, background, strength: float = 1.0):
    """Pictures as an optimisation renders them early.

    Half of them faded into their flat background `[b 3]` in [0, 1], half blurred, and
    all with blotchy noise of a random level and grain. strength: 1 for these amounts,
    less for proportionally less of each.
    """
    keys = jax.random.split(key, 7)
    count = (x.shape[0],)
    half = [jax.random.bernoulli(k, 0.5, count) for k in keys[:2]]
    opacity = jax.random.uniform(keys[2], count, minval=FAINTEST, maxval=1.0)
    opacity = opacity + (1.0 - strength) * (1.0 - opacity)
    softness, grain = (SOFTEST * jax.random.uniform(k, count) for k in keys[3:5])
    level = strength * BLOTCHES * jax.random.uniform(keys[5], count) ** 2
    flat = 2.0 * background[:, None, None, :] - 1.0
    x = flat + _spread(jnp.where(half[0], opacity, 1.0)) * (x - flat)
    x = blur(x, jnp.where(half[1], strength * softness * x.shape[2] / 64, 0.0))
    blotches = blur(jax.random.normal(keys[6], x.shape), grain)
    size = jnp.sqrt(jnp.mean(blotches**2, axis=(1, 2, 3)))
    return x + _spread(level / size) * blotches


def low_strata(key, count: int, total: int):
    """Draws times total u^2 in 0..total - 1, u one from each of `count` equal strata.

    `[count]` int32, ascending: half of them below a quarter of `total`.
    """
    u = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count
    return jnp.floor(u**2 * total).astype(jnp.int32)


def noised(key, x, t, schedule: NoiseSchedule):
    """Noises pictures x `[b ...]` to times `[b]`: x_t = alpha_t x + sigma_t eps."""
    eps = jax.random.normal(key, x.shape)
    return _spread(schedule.alphas[t]) * x + _spread(schedule.sigmas[t]) * eps


def through_latents(key, x, t, schedule: NoiseSchedule, vae: Callable, params):
    """D(z_t) for times `[b]`; vae: AutoencoderKL's `apply`, params its parameters.

    The scaling factor is the schedule's business: z has unit variance.
    """
    mean, _ = vae({"params": params["vae"]}, x, method="encode")
    scale = params["scaling_factor"]
    z_t = noised(key, scale * mean, t, schedule)
    return vae({"params": params["vae"]}, z_t / scale, method="decode")
