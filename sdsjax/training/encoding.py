"""From a rendering to what the prior denoises: rgb in [0, 1] -> x in [-1, 1] -> z."""

from __future__ import annotations

import jax

from sdsjax.types import Array, Prior, PriorSource, PyTree


def bind(source: PriorSource, prior_params: PyTree) -> Prior:
    """The prior with its parameters, which no gradient enters."""
    return source.bind(jax.lax.stop_gradient(prior_params))


def to_latent(source: PriorSource, prior: Prior, space: str, rgb: Array):
    """Encodes one rendered rgb [h w c] to (z, x); in latent space z is rgb and x None.

    x = 2 rgb - 1, resized to what the prior's encoder takes.
    """
    if space == "latent":
        return rgb, None
    x = 2.0 * rgb - 1.0
    if source.image_shape is not None and x.shape != tuple(source.image_shape):
        x = jax.image.resize(x, source.image_shape, "bilinear", antialias=True)
    return prior.encode(x), x
