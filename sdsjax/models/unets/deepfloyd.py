"""DeepFloyd IF's first stage: a text-conditioned denoiser of 64x64 pixels.

Notation: z_t `[b h w 3]` noisy pixels; t `[b]` timesteps; text `[b n d]` the states of
the T5 encoder, all n of them: padding is masked inside T5, not here. The output
`[b h w 6]` holds eps_hat in its first half of channels and the learned variance
(arXiv 2102.09672, section 3.1) in the second; one without learned variance has 3.

Architecture: the cascade of Imagen (arXiv 2205.11487) on the blocks of Dhariwal and
Nichol 2021 (arXiv 2105.05233), as published in Hugging Face's `UNet2DConditionModel`:
time scales and shifts the second norm of a residual block, residual blocks do the
resizing, and pixels attend to text and pixels at once. Norms of attention have epsilon
1e-5. `attention_head_dim` in these files IS the width of one head.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sdsjax.models.layers import (
    GroupNorm,
    LayerNorm,
    attention,
    conv,
    gelu_exact,
    timestep_embedding,
    upsample_nearest,
)
from sdsjax.models.parameters import Dense, Module

ACTIVATIONS = {"silu": nn.silu, "swish": nn.silu, "gelu": gelu_exact}
ATTENTION_EPSILON = 1e-5
TEXT_GROUPS = 32


class IFUNetConfig(NamedTuple):
    """What of an IF UNet's config.json decides its arithmetic (one entry per level).

    channels and the two attention flags run as in `UNetConfig`; head_width: channels of
    one head; context: of the text that is attended to, text_width: of T5's states,
    pool_heads: of the pooling that adds them to the time.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    head_width: int
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]
    layers: int
    groups: int
    epsilon: float
    context: int
    text_width: int
    pool_heads: int
    activation: str
    sample_size: int

    @property
    def time_width(self) -> int:
        """The width of the time's embedding."""
        return 4 * self.channels[0]


def average_pool(x):
    """Averages each 2x2: `[b 2h 2w c]` becomes `[b h w c]`."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


RESIZE = {None: lambda x: x, "down": average_pool, "up": upsample_nearest}


class ShiftedResnet(Module):
    """A residual block that the time scales and shifts, and that may resize.

    norm, act, resize, conv, norm * (1 + scale) + shift, act, conv, + shortcut, with
    scale, shift = Linear(act(time)); `resize` ("down", "up", None) is applied to both
    branches.
    """

    config: IFUNetConfig
    channels: int
    resize: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, time):
        cfg, act = self.config, ACTIVATIONS[self.config.activation]
        norm = partial(GroupNorm, cfg.groups, cfg.epsilon, self.dtype)
        h = RESIZE[self.resize](act(norm(name="norm1")(x)))
        h = conv(self.channels, 3, self.dtype, "conv1")(h)
        dense = Dense(2 * self.channels, dtype=self.dtype, name="time_emb_proj")
        scale, shift = jnp.split(dense(act(time))[:, None, None, :], 2, axis=-1)
        h = act(norm(name="norm2")(h) * (1 + scale) + shift)
        h = conv(self.channels, 3, self.dtype, "conv2", zero=True)(h)
        x = RESIZE[self.resize](x)
        if x.shape[-1] != self.channels:
            x = conv(self.channels, 1, self.dtype, "conv_shortcut")(x)
        return x + h


class TextImageAttention(Module):
    """Pixels `[b h w c]` attend to the text `[b n d]` and to each other, residual.

    Keys and values are those of the text followed by those of the pixels.
    """

    config: IFUNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, text):
        b, h, w, c = x.shape
        split = (c // self.config.head_width, self.config.head_width)

        def norm(groups, name):
            return GroupNorm(groups, ATTENTION_EPSILON, self.dtype, name=name)

        def project(name, tokens):
            y = Dense(c, dtype=self.dtype, name=name)(tokens)
            return y.reshape(b, tokens.shape[1], *split)

        words = norm(TEXT_GROUPS, "norm_cross")(text)
        pixels = norm(self.config.groups, "group_norm")(x).reshape(b, h * w, c)
        k = [project("add_k_proj", words), project("to_k", pixels)]
        v = [project("add_v_proj", words), project("to_v", pixels)]
        q, k, v = project("to_q", pixels), jnp.concatenate(k, 1), jnp.concatenate(v, 1)
        y = Dense(c, dtype=self.dtype, name="to_out_0")(
            attention(q, k, v).reshape(b, h * w, c)
        )
        return x + y.reshape(b, h, w, c)


class AttentionPooling(Module):
    """Pools tokens `[b n c]` to `[b c]` by attention.

    The mean token, moved by a learnt offset, attends to itself and to all tokens.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, _, c = x.shape
        init = nn.initializers.normal(c**-0.5)
        offset = self.param("positional_embedding", init, (1, c)).astype(self.dtype)
        query = x.mean(1, keepdims=True) + offset
        tokens = jnp.concatenate([query, x], axis=1)

        def project(name, tokens):
            y = Dense(c, dtype=self.dtype, name=name)(tokens)
            return y.reshape(b, tokens.shape[1], self.heads, c // self.heads)

        q, k, v = (
            project("q_proj", query),
            project("k_proj", tokens),
            project("v_proj", tokens),
        )
        return attention(q, k, v).reshape(b, c)


class TextTimeEmbedding(Module):
    """Embeds T5's states `[b n d]` as `[b time_width]`, to be added to the time."""

    config: IFUNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, text):
        cfg = self.config
        x = LayerNorm(1e-5, self.dtype, name="norm1")(text)
        x = AttentionPooling(cfg.pool_heads, self.dtype, name="pool")(x)
        x = Dense(cfg.time_width, dtype=self.dtype, name="proj")(x)
        return LayerNorm(1e-5, self.dtype, name="norm2")(x)


class TimeEmbedding(Module):
    """Two linear layers, with an activation between, on the sinusoidal embedding."""

    config: IFUNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        dense = partial(Dense, self.config.time_width, dtype=self.dtype)
        x = ACTIVATIONS[self.config.activation](dense(name="linear_1")(x))
        return dense(name="linear_2")(x)


class Stage(Module):
    """The residual blocks of one level, with attention after each if `attend`.

    `skips` (up path) are joined one per block; `resize` adds a resizing block. The
    outputs of all blocks come back.
    """

    config: IFUNetConfig
    level: int
    layers: int
    attend: bool
    resize: str | None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, time, text, skips=None):
        cfg, outputs = self.config, []
        resnet = partial(ShiftedResnet, cfg, cfg.channels[self.level], dtype=self.dtype)
        for j in range(self.layers):
            if skips is not None:
                x = jnp.concatenate([x, skips[j]], axis=-1)
            x = resnet(name=f"resnets_{j}")(x, time)
            if self.attend:
                attend = TextImageAttention(cfg, self.dtype, name=f"attentions_{j}")
                x = attend(x, text)
            outputs.append(x)
        if self.resize:
            name = f"{self.resize}samplers_0"
            outputs.append(resnet(resize=self.resize, name=name)(x, time))
        return outputs


class MidStage(Module):
    """Residual block, attention, residual block at the coarsest level."""

    config: IFUNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, time, text):
        cfg = self.config
        resnet = partial(ShiftedResnet, cfg, cfg.channels[-1], dtype=self.dtype)
        x = resnet(name="resnets_0")(x, time)
        x = TextImageAttention(cfg, self.dtype, name="attentions_0")(x, text)
        return resnet(name="resnets_1")(x, time)


class IFUNet(Module):
    """DeepFloyd IF's UNet: (z_t `[b h w c]`, t `[b]`, text `[b n d]`) to predictions.

    They are `[b h w out_channels]`. h and w are multiples of 2^(levels - 1), else
    ValueError.
    """

    config: IFUNetConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, sample, timesteps, encoder_hidden_states):
        cfg, last = self.config, len(self.config.channels) - 1
        if any(side % 2**last for side in sample.shape[1:3]):
            raise ValueError(
                f"a sample of {sample.shape[1]}x{sample.shape[2]} pixels: both sides "
                f"must be multiples of {2**last}"
            )
        text = encoder_hidden_states.astype(self.dtype)
        time = timestep_embedding(timesteps, cfg.channels[0]).astype(self.dtype)
        time = TimeEmbedding(cfg, self.dtype, name="time_embedding")(time)
        time = time + TextTimeEmbedding(cfg, self.dtype, name="add_embedding")(text)
        text = Dense(cfg.context, dtype=self.dtype, name="encoder_hid_proj")(text)

        x = conv(cfg.channels[0], 3, self.dtype, "conv_in")(sample.astype(self.dtype))
        skips = [x]
        for i, attend in enumerate(cfg.down_attention):
            resize = "down" if i < last else None
            stage = Stage(
                cfg, i, cfg.layers, attend, resize, self.dtype, name=f"down_blocks_{i}"
            )
            skips += stage(skips[-1], time, text)
        x = MidStage(cfg, self.dtype, name="mid_block")(skips[-1], time, text)
        for i, attend in enumerate(cfg.up_attention):
            resize = "up" if i < last else None
            stage = Stage(
                cfg, last - i, cfg.layers + 1, attend, resize, self.dtype,
                name=f"up_blocks_{i}",
            )  # fmt: skip
            taken = [skips.pop() for _ in range(cfg.layers + 1)]
            x = stage(x, time, text, taken)[-1]

        x = GroupNorm(cfg.groups, cfg.epsilon, self.dtype, name="conv_norm_out")(x)
        x = ACTIVATIONS[cfg.activation](x)
        x = conv(cfg.out_channels, 3, self.dtype, "conv_out", zero=True)(x)
        return x.astype(sample.dtype)
