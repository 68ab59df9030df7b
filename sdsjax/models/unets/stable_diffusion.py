"""UNet2DCondition: the denoiser of Stable Diffusion 1.5, 2.1 and of the toybox.

Notation: z_t `[b h w c]` noisy latents; t `[b]` timesteps; text `[b n d]` the states of
the text encoder. The output has z_t's shape and type: eps_hat, or v_hat when the
checkpoint was trained so (the scheduler's config says which).

Architecture: Rombach et al. 2022 (arXiv 2112.10752) as published in Hugging Face's
`UNet2DConditionModel`: down blocks, a middle block, mirrored up blocks with one more
layer and a skip connection each. `attention_head_dim` in those files is, for these
models, the NUMBER of heads; `UNetConfig.heads` says so.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sdsjax.models.layers import (
    Downsample,
    GroupNorm,
    ResnetBlock,
    SpatialTransformer,
    Upsample,
    conv,
    rematerialised,
    timestep_embedding,
)
from sdsjax.models.parameters import Dense, Module


class UNetConfig(NamedTuple):
    """What of a UNet's config.json decides its arithmetic (one entry per level).

    channels, heads, depths and down_attention run from the finest level down;
    up_attention runs in the order of the up blocks, from the coarsest level up. depths:
    transformer blocks after each residual block of a level; (): one everywhere.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    heads: tuple[int, ...]
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]
    layers: int
    groups: int
    epsilon: float
    context: int
    linear_projection: bool
    sample_size: int
    depths: tuple[int, ...] = ()

    @property
    def time_width(self) -> int:
        """The width of the time's embedding."""
        return 4 * self.channels[0]

    def depth(self, level: int) -> int:
        """The number of transformer blocks at a level, -1 for the coarsest."""
        return self.depths[level] if self.depths else 1


class TimeEmbedding(Module):
    """Two linear layers, with SiLU between, on the sinusoidal embedding.

    zero: whether the last one is 0 at first (for what is added to it).
    """

    width: int
    dtype: jnp.dtype = jnp.float32
    zero: bool = False

    @nn.compact
    def __call__(self, x):
        last = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        dense = partial(Dense, self.width, dtype=self.dtype)
        x = nn.silu(dense(name="linear_1")(x))
        return dense(kernel_init=last, name="linear_2")(x)


class Stage(Module):
    """The residual blocks of one level, with a transformer after each if `attend`.

    `skips` (up path) are joined one per block; the outputs of all blocks come back.
    `remat`: what the gradient keeps of them (layers.REMAT).
    """

    config: UNetConfig
    level: int
    layers: int
    attend: bool
    dtype: jnp.dtype = jnp.float32
    group: int = 1
    remat: str = "none"

    def setup(self):
        cfg, channels = self.config, self.config.channels[self.level]
        block = rematerialised(ResnetBlock, self.remat)
        self.resnets = [
            block(channels, cfg.groups, cfg.epsilon, True, self.dtype)
            for _ in range(self.layers)
        ]
        if self.attend:
            transformer = partial(
                SpatialTransformer,
                cfg.heads[self.level], cfg.groups, cfg.linear_projection,
                self.dtype, self.group, cfg.depth(self.level), self.remat,
            )  # fmt: skip
            self.attentions = [transformer() for _ in range(self.layers)]

    def run(self, x, time, text, skips=None):
        """Returns the outputs of all blocks on x `[b h w c]`."""
        outputs = []
        for i in range(self.layers):
            if skips is not None:
                x = jnp.concatenate([x, skips[i]], axis=-1)
            x = self.resnets[i](x, time)
            if self.attend:
                x = self.attentions[i](x, text)
            outputs.append(x)
        return outputs


class DownStage(Stage):
    """A level of the down path; `last` leaves the size alone."""

    last: bool = False

    def setup(self):
        super().setup()
        if not self.last:
            width = self.config.channels[self.level]
            self.downsamplers = [Downsample(width, dtype=self.dtype)]

    def __call__(self, x, time, text):
        outputs = self.run(x, time, text)
        if not self.last:
            outputs.append(self.downsamplers[0](outputs[-1]))
        return outputs


class UpStage(Stage):
    """A level of the up path; the last one leaves the size alone."""

    last: bool = False

    def setup(self):
        super().setup()
        if not self.last:
            self.upsamplers = [Upsample(self.config.channels[self.level], self.dtype)]

    def __call__(self, x, time, text, skips, size):
        x = self.run(x, time, text, skips)[-1]
        return x if self.last else self.upsamplers[0](x, size)


class MidStage(Module):
    """Residual block, transformer, residual block at the coarsest level."""

    config: UNetConfig
    dtype: jnp.dtype = jnp.float32
    group: int = 1
    remat: str = "none"

    def setup(self):
        cfg = self.config
        width, heads = cfg.channels[-1], cfg.heads[-1]
        block = rematerialised(ResnetBlock, self.remat)
        self.resnets = [
            block(width, cfg.groups, cfg.epsilon, True, self.dtype) for _ in range(2)
        ]
        transformer = SpatialTransformer(
            heads, cfg.groups, cfg.linear_projection, self.dtype, self.group,
            cfg.depth(-1), self.remat,
        )  # fmt: skip
        self.attentions = [transformer]

    def __call__(self, x, time, text):
        x = self.attentions[0](self.resnets[0](x, time), text)
        return self.resnets[1](x, time)


class UNet2DCondition(Module):
    """Stable Diffusion's UNet: (z_t, t `[b]`, text `[b n d]`) to `[b h w c]`.

    h and w may be any size: an odd level is doubled and cropped on the way up.
    class_embedding `[b time_width]`: added to the embedding of t (the slot that the
    published classes call so; see lora.py). group: how many consecutive rows of the
    batch share their self-attention (1: none do; see multiview.py). remat: what the
    gradient keeps of the blocks (layers.REMAT).
    """

    config: UNetConfig
    dtype: jnp.dtype = jnp.float32
    group: int = 1
    remat: str = "none"

    @nn.compact
    def __call__(self, sample, timesteps, encoder_hidden_states, class_embedding=None):
        cfg, depth = self.config, len(self.config.channels)
        time = timestep_embedding(timesteps, cfg.channels[0]).astype(self.dtype)
        time = TimeEmbedding(cfg.time_width, self.dtype, name="time_embedding")(time)
        if class_embedding is not None:
            time = time + class_embedding.astype(self.dtype)
        text = encoder_hidden_states.astype(self.dtype)

        x = conv(cfg.channels[0], 3, self.dtype, "conv_in")(sample.astype(self.dtype))
        skips = [x]
        for i in range(depth):
            stage = DownStage(
                cfg, i, cfg.layers, cfg.down_attention[i], self.dtype, self.group,
                self.remat, last=i == depth - 1, name=f"down_blocks_{i}",
            )  # fmt: skip
            skips += stage(skips[-1], time, text)
        middle = MidStage(cfg, self.dtype, self.group, self.remat, name="mid_block")
        x = middle(skips[-1], time, text)
        for i in range(depth):
            stage = UpStage(
                cfg, depth - 1 - i, cfg.layers + 1, cfg.up_attention[i], self.dtype,
                self.group, self.remat, last=i == depth - 1, name=f"up_blocks_{i}",
            )  # fmt: skip
            taken = [skips.pop() for _ in range(cfg.layers + 1)]
            size = skips[-1].shape[1:3] if skips else None
            x = stage(x, time, text, taken, size)

        x = GroupNorm(cfg.groups, cfg.epsilon, self.dtype, name="conv_norm_out")(x)
        x = conv(cfg.out_channels, 3, self.dtype, "conv_out", zero=True)(nn.silu(x))
        return x.astype(sample.dtype)
