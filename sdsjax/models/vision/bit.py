"""The convolutional stem of a hybrid DPT: the first stages of a ResNet (BiT's).

Notation: x `[b h w c]`. A 7x7 convolution and a maximum pooling take h to h/4; each
stage is bottleneck blocks (1x1, 3x3, 1x1 convolutions, residual), the second and each
later one at half the size of the one before. Kernels are standardised over their inputs
for every output channel (arXiv 1903.10520), groups normalised after them; padding is
TensorFlow's "same".

Sources: Kolesnikov et al. 2020 (arXiv 1912.11370) as published in Hugging Face's
`BitBackbone`; Ranftl et al. 2021 (arXiv 2103.13413) for its place in DPT.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax.models.layers import GroupNorm
from sdsjax.models.parameters import Module

STANDARD_EPSILON, GROUP_EPSILON = 1e-8, 1e-5


class BitConfig(NamedTuple):
    """What of a BiT's config decides its arithmetic.

    embedding: channels of the first convolution; widths, depths: channels and blocks of
    the stages; groups: of every normalisation.
    """

    embedding: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    groups: int = 32

    @property
    def stride(self) -> int:
        """How many pixels of the image one of the last stage's stands for, a side."""
        return 4 * 2 ** (len(self.widths) - 1)


def bottleneck(width: int) -> int:
    """Returns the channels inside a block: a quarter, to the nearest multiple of 8.

    Never under nine tenths of the quarter, as published.
    """
    inner = max(8, (width + 16) // 32 * 8)
    return inner if inner >= 0.9 * width / 4 else inner + 8


class StandardConv(Module):
    """A convolution whose kernels have mean 0 and variance 1 over their inputs."""

    channels: int
    size: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        kernel = kernel.astype(jnp.float32)
        kernel = kernel - kernel.mean((0, 1, 2))
        variance = jnp.square(kernel).mean((0, 1, 2))
        kernel = kernel * jax.lax.rsqrt(variance + STANDARD_EPSILON)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def pool_maximum(x):
    """Halves `[b h w c]`, x >= 0: the maximum of 3x3 pixels, padded as "same" pads.

    Of slices: the pullback of a window's reduction is a slow scatter on a CPU.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        out = -(-size // 2)
        before = max(2 * out + 1 - size, 0) // 2
        pad = [(0, 0)] * x.ndim
        pad[axis] = (before, 2 * out + 1 - size - before)
        x = jnp.pad(x, pad)  # 0 is no more than any pixel
        first, second, third = (
            jax.lax.slice_in_dim(x, i, i + 2 * out - 1, 2, axis) for i in range(3)
        )
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x


class Bottleneck(Module):
    """A residual block; `first`: of its stage, where the shortcut has a convolution."""

    channels: int
    groups: int
    stride: int
    first: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        def normed(y, channels, size, stride, name, norm):
            y = StandardConv(channels, size, stride, self.dtype, name=name)(y)
            return GroupNorm(self.groups, GROUP_EPSILON, self.dtype, name=norm)(y)

        inner, stride = bottleneck(self.channels), self.stride
        y = nn.relu(normed(x, inner, 1, 1, "conv1", "norm1"))
        y = nn.relu(normed(y, inner, 3, stride, "conv2", "norm2"))
        y = normed(y, self.channels, 1, 1, "conv3", "norm3")
        if self.first:
            name = "downsample"
            x = normed(x, self.channels, 1, stride, f"{name}_conv", f"{name}_norm")
        return nn.relu(x + y)


class Bit(Module):
    """The stem: x `[b h w 3]` to what each of its stages gives, finest first."""

    config: BitConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        cfg = self.config
        x = StandardConv(cfg.embedding, 7, 2, self.dtype, name="convolution")(x)
        x = GroupNorm(cfg.groups, GROUP_EPSILON, self.dtype, name="norm")(x)
        x = pool_maximum(nn.relu(x))
        stages = []
        for i, (width, depth) in enumerate(zip(cfg.widths, cfg.depths)):
            for j in range(depth):
                stride = 2 if i and not j else 1
                block = Bottleneck(
                    width, cfg.groups, stride, not j, self.dtype, name=f"stage_{i}_{j}"
                )
                x = block(x)
            stages.append(x)
        return stages
