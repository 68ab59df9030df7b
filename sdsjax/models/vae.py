"""The autoencoder of Stable Diffusion, AutoencoderKL: images to latents and back.

Notation: x `[b h w 3]` images in [-1, 1]; z `[b h/f w/f c]` latents with f = 2^(levels
- 1). `encode` gives the mean and log-variance of q(z | x), not yet multiplied by the
checkpoint's `scaling_factor`; `decode` takes z divided by it. Moments are float32.
Stable Diffusion 3's has 16 channels, a shift and no 1x1 convolutions.

Architecture: Rombach et al. 2022 (arXiv 2112.10752, appendix G) as published in Hugging
Face's `AutoencoderKL`. Residual norms have eps 1e-6; the middle attends with one head;
the encoder's stride-2 convolutions pad on the right and at the bottom only.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sdsjax.models.layers import (
    Attention,
    Downsample,
    GroupNorm,
    ResnetBlock,
    Upsample,
    conv,
    rematerialised,
)
from sdsjax.models.parameters import Module

EPSILON = 1e-6


class VAEConfig(NamedTuple):
    """What of a VAE's config.json decides its arithmetic, finest level first.

    scaling_factor, shift_factor: latents are (mean - shift) x scaling; quant: whether
    1x1 convolutions stand beside the latents (not in Stable Diffusion 3's).
    """

    in_channels: int
    out_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    layers: int
    groups: int
    scaling_factor: float
    sample_size: int
    shift_factor: float = 0.0
    quant: bool = True

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.channels) - 1)

    def to_latents(self, mean):
        """Returns what the prior denoises of the posterior mean."""
        if self.shift_factor:
            mean = mean - self.shift_factor
        return self.scaling_factor * mean

    def from_latents(self, z):
        """Returns what `decode` takes of the prior's z: the inverse of `to_latents`."""
        z = z / self.scaling_factor
        return z + self.shift_factor if self.shift_factor else z


class PixelAttention(Module):
    """Adds attention over all pixels of `[b h w c]`, by one head as wide as c."""

    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        y = GroupNorm(self.groups, EPSILON, self.dtype, name="group_norm")(x)
        y = y.reshape(b, h * w, c)
        # the projections belong to this module in the published layout
        attend = Attention(1, True, self.dtype, name="heads")
        return x + attend(y).reshape(b, h, w, c)


class Stage(Module):
    """The residual blocks of one level, then `resize`: "down", "up" or None."""

    channels: int
    layers: int
    groups: int
    resize: str | None
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        block = rematerialised(ResnetBlock, self.remat)
        self.resnets = [
            block(self.channels, self.groups, EPSILON, False, self.dtype)
            for _ in range(self.layers)
        ]
        if self.resize == "down":
            self.downsamplers = [Downsample(self.channels, True, self.dtype)]
        if self.resize == "up":
            self.upsamplers = [Upsample(self.channels, self.dtype)]

    def __call__(self, x):
        for block in self.resnets:
            x = block(x)
        if self.resize == "down":
            x = self.downsamplers[0](x)
        if self.resize == "up":
            x = self.upsamplers[0](x)
        return x


class MidStage(Module):
    """Residual block, attention, residual block at the coarsest level."""

    channels: int
    groups: int
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        block = rematerialised(ResnetBlock, self.remat)
        self.resnets = [
            block(self.channels, self.groups, EPSILON, False, self.dtype)
            for _ in range(2)
        ]
        attend = rematerialised(PixelAttention, self.remat)
        self.attentions = [attend(self.groups, self.dtype)]

    def __call__(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(Module):
    """The encoder's layers: x `[b h w 3]` to `[b h/f w/f 2c]`, before `quant_conv`."""

    config: VAEConfig
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        cfg, last = self.config, len(self.config.channels) - 1
        x = conv(cfg.channels[0], 3, self.dtype, "conv_in")(x)
        for i, width in enumerate(cfg.channels):
            x = Stage(
                width, cfg.layers, cfg.groups, None if i == last else "down",
                self.remat, self.dtype, name=f"down_blocks_{i}",
            )(x)  # fmt: skip
        x = MidStage(
            cfg.channels[-1], cfg.groups, self.remat, self.dtype, name="mid_block"
        )(x)
        x = GroupNorm(cfg.groups, EPSILON, self.dtype, name="conv_norm_out")(x)
        return conv(2 * cfg.latent_channels, 3, self.dtype, "conv_out")(nn.silu(x))


class Decoder(Module):
    """The decoder's layers: z `[b h w c]` to x `[b f*h f*w 3]`.

    z comes after `post_quant_conv`.
    """

    config: VAEConfig
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z):
        cfg, last = self.config, len(self.config.channels) - 1
        x = conv(cfg.channels[-1], 3, self.dtype, "conv_in")(z)
        x = MidStage(
            cfg.channels[-1], cfg.groups, self.remat, self.dtype, name="mid_block"
        )(x)
        for i, width in enumerate(reversed(cfg.channels)):
            x = Stage(
                width, cfg.layers + 1, cfg.groups, None if i == last else "up",
                self.remat, self.dtype, name=f"up_blocks_{i}",
            )(x)  # fmt: skip
        x = GroupNorm(cfg.groups, EPSILON, self.dtype, name="conv_norm_out")(x)
        return conv(cfg.out_channels, 3, self.dtype, "conv_out")(nn.silu(x))


class AutoencoderKL(Module):
    """The whole autoencoder.

    `encode`: x -> (mean, logvar) of z; `decode`: z -> x; called: both in turn.

    `remat` says what the gradient keeps of the blocks (layers.REMAT): by "blocks" the
    encoder's residuals at 512 pixels fall from 4.9 GB to 0.6 GB an image (float32).
    """

    config: VAEConfig
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    def setup(self):
        cfg = self.config
        self.encoder = Encoder(cfg, self.remat, self.dtype)
        if cfg.quant:
            self.quant_conv = conv(2 * cfg.latent_channels, 1, self.dtype, None)
            self.post_quant_conv = conv(cfg.latent_channels, 1, self.dtype, None)
        self.decoder = Decoder(cfg, self.remat, self.dtype)

    def encode(self, x):
        """Encodes x `[b h w 3]` in [-1, 1] to mean, logvar `[b h/f w/f c]`, float32."""
        moments = self.encoder(x.astype(self.dtype))
        if self.config.quant:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z):
        """Decodes z `[b h/f w/f c]` to x `[b h w 3]` in z's type, about in [-1, 1]."""
        given = z.astype(self.dtype)
        if self.config.quant:
            given = self.post_quant_conv(given)
        return self.decoder(given).astype(z.dtype)

    def __call__(self, x):
        mean, logvar = self.encode(x)
        return self.decode(mean), mean, logvar
