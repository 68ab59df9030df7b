"""Small fully connected networks: relu between the layers, none after the last.

Notation: a network is a tuple of `Dense` layers, x [... in] its input.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Dense(NamedTuple):
    """An affine layer: its kernel [in out] and its bias [out]."""

    kernel: Array
    bias: Array


def init_mlp(key: Array, widths: tuple[int, ...]) -> tuple[Dense, ...]:
    """Draws the layers of a network, float32: He's uniform kernels and zero biases.

    widths: of the input, the hidden layers and the output. Source: arXiv 1502.01852.
    """
    keys = jax.random.split(key, len(widths) - 1)

    def layer(key, fan_in, fan_out):
        span = math.sqrt(6 / fan_in)
        kernel = jax.random.uniform(key, (fan_in, fan_out), minval=-span, maxval=span)
        return Dense(kernel, jnp.zeros(fan_out))

    return tuple(map(layer, keys, widths[:-1], widths[1:]))


def apply_mlp(layers: tuple[Dense, ...], x: Array) -> Array:
    """Applies a network to x [... in] and returns [... out]."""
    # As one list of points: with two leading axes XLA's gradients take twice as long
    # on a CPU.
    flat = x.reshape(-1, x.shape[-1])
    for layer in layers[:-1]:
        flat = jax.nn.relu(flat @ layer.kernel + layer.bias)
    flat = flat @ layers[-1].kernel + layers[-1].bias
    return flat.reshape(*x.shape[:-1], flat.shape[-1])
