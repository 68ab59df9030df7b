"""Classifier-free guidance: how a prompt's predictions are amplified.

Shapes: any, equal. Sign and scale as in Ho & Salimans, arXiv 2207.12598, eq. 6.
"""

import jax


def guide(cond: jax.Array, uncond: jax.Array, guidance_scale: float) -> jax.Array:
    """Applies classifier-free guidance: e_s = e_0 + s (e_y - e_0)."""
    return uncond + guidance_scale * (cond - uncond)
