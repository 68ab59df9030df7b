"""Classifier-free guidance: how a prompt's predictions are amplified.

Shapes: any, equal; z_t with noise predictions e of its shape, t a scalar. Sign and
scale as in Ho & Salimans, arXiv 2207.12598, eq. 6.

Guidance rescale: a large scale s spreads the values of the denoised estimate zhat_s =
(z_t - sigma e_s) / alpha, which shows as saturated colours. Its standard deviation over
the whole sample is brought back to that of the conditional zhat_y, and the two are
mixed by phi (arXiv 2305.08891, sec. 3.4, eqs. 14-16; on zhat as in MVDream, arXiv
2308.16512, appendix).
"""

import jax
import jax.numpy as jnp

from sdsjax.diffusion.noise_schedules import NoiseSchedule, alpha_sigma


def guide(cond: jax.Array, uncond: jax.Array, guidance_scale: float) -> jax.Array:
    """Applies classifier-free guidance: e_s = e_0 + s (e_y - e_0)."""
    return uncond + guidance_scale * (cond - uncond)


def rescaled(
    schedule: NoiseSchedule,
    z_t: jax.Array,
    t: jax.Array,
    cond: jax.Array,
    guided: jax.Array,
    guidance_rescale: float,
) -> jax.Array:
    """Returns e_s, `guided`, with the spread of its zhat brought back towards e_y's.

    zhat' = (phi f + 1 - phi) zhat_s with f = std(zhat_y) / std(zhat_s) over the whole
    sample, all views of a group; phi = `guidance_rescale` in 0..1, 0 returns e_s as it
    is. Statistics are float32; the type is that of e_s.
    """
    if guidance_rescale == 0:
        return guided
    _, sigma = alpha_sigma(schedule, t)
    wide, cond, e_s = (a.astype(jnp.float32) for a in (z_t, cond, guided))
    # alpha zhat: alpha itself cancels, which is .07 at t = 980
    clean = wide - sigma * e_s
    spread, wanted = jnp.std(clean), jnp.std(wide - sigma * cond)
    ratio = jnp.where(spread > 0, wanted / jnp.where(spread > 0, spread, 1.0), 1.0)
    shift = guidance_rescale * (1.0 - ratio) / sigma * clean
    return (e_s + shift).astype(guided.dtype)


def guide_rescaled(
    schedule: NoiseSchedule,
    z_t: jax.Array,
    t: jax.Array,
    cond: jax.Array,
    uncond: jax.Array,
    guidance_scale: float,
    guidance_rescale: float,
) -> jax.Array:
    """Returns e_s of z_t, rescaled (see `rescaled`): at 0 it is `guide`'s."""
    guided = guide(cond, uncond, guidance_scale)
    return rescaled(schedule, z_t, t, cond, guided, guidance_rescale)
