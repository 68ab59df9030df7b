"""A picture as a `Representation`: pixels or latents, the same from every camera.

Notation: pixels [h w c]; in space "image" c = 3 and rgb = pixels, in space "latent"
rgb holds the latent z itself. It is the first debugging tool: no renderer stands
between the estimator and what it moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax import losses as loss
from sdsjax.representations.regularizers import (
    check_losses,
    nonzero_weights,
    sum_of_terms,
)
from sdsjax.types import Rendering, Representation

Array = jax.Array

__all__ = ["Image", "image"]

INITS = ("noise", "gray")
SPACES = ("image", "latent")


class Image(NamedTuple):
    """The parameters that an optimizer changes: pixels [h w c]."""

    pixels: Array


REGULARIZERS = {
    "total_variation": lambda params, r: loss.total_variation(r.rgb),
    "magnitude": lambda params, r: jnp.mean(params.pixels**2),
}


def image(
    *,
    shape: Sequence[int],
    space: str = "image",
    init: str = "noise",
    init_std: float | None = None,
    losses: Mapping[str, float] | None = None,
) -> Representation:
    """Makes the representation of a picture of shape (h, w, c).

    space "image": c = 3; rgb is shown in [0, 1] with the gradient of the identity (a
    pixel at the rim can return). space "latent": any c, unbounded. init "noise":
    normal, of mean 0.5 and standard deviation 0.1 (image) or mean 0 and 1 (latent)
    unless init_std is given; "gray": constant at that mean. losses: weights of
    REGULARIZERS. Raises ValueError on anything else.
    """
    shape = tuple(int(side) for side in shape)
    _check(shape, space, init, losses)
    weights = nonzero_weights(losses)
    mean, std = (0.5, 0.1) if space == "image" else (0.0, 1.0)
    std = 0.0 if init == "gray" else std if init_std is None else init_std

    def init_params(key: Array) -> tuple[Image, tuple]:
        return Image(pixels=mean + std * jax.random.normal(key, shape)), ()

    def render(params: Image, state, camera, key: Array | None) -> Rendering:
        del state, camera, key
        rgb = params.pixels
        if space == "image":
            rgb += lax.stop_gradient(jnp.clip(rgb, 0, 1) - rgb)
        flat = jnp.zeros(shape[:2], rgb.dtype)
        return Rendering(
            rgb=rgb,
            opacity=flat + 1,
            depth=flat,
            normal=jnp.zeros((*shape[:2], 3), rgb.dtype),
            aux={},
        )

    def regularize(params, state, renderings, step):
        del state, step
        terms = {
            name: weight * REGULARIZERS[name](params, renderings)
            for name, weight in weights.items()
        }
        return sum_of_terms(terms, params.pixels.dtype)

    return Representation(
        init=init_params, render=render, space=space, regularize=regularize
    )


def _check(shape, space, init, losses) -> None:
    if space not in SPACES:
        raise ValueError(f"space={space!r}: allowed are {', '.join(SPACES)}")
    if init not in INITS:
        raise ValueError(f"init={init!r}: allowed are {', '.join(INITS)}")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={shape}: give (height, width, channels)")
    if space == "image" and shape[2] != 3:
        raise ValueError(f"shape={shape}: an image has 3 channels")
    check_losses(losses, REGULARIZERS)
