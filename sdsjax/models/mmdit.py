"""MMDiT, the transformer of Stable Diffusion 3: text and image in one attention.

Notation: z_t `[b h w c]`; s `[b]` the flow's time times 1000; patches of p x p latents
are tokens `[b n d]`, n = (h/p)(w/p), d = heads x a head's width; text states `[b m e]`;
pooled text `[b q]`. What the network is told beside z_t and s is one pytree, `Text`. It
predicts the velocity v = eps - z. The embedding of s and of the pooled text shifts,
scales and gates both streams in every block (adaLN-zero); a block of `dual` attends
once more among the image's tokens alone; the last block drops the text.

Position embeddings are a table of `positions` x `positions` tokens, of which the middle
is taken. Norms of tokens have no parameters and eps 1e-6; statistics and softmax are
float32 whatever `dtype` is.

Source: Esser et al. 2024 (arXiv 2403.03206), as published in Hugging Face's
`SD3Transformer2DModel`; adaLN-zero: Peebles and Xie 2023 (arXiv 2212.09748).
"""

import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.layers import attention, rematerialised
from sdsjax.models.parameters import Conv, Dense, Module
from sdsjax.models.unets.stable_diffusion import TimeEmbedding

EPSILON = 1e-6
TIME_WIDTH = 256
MLP_RATIO = 4


class MMDiTConfig(NamedTuple):
    """What of a transformer's config.json decides its arithmetic.

    patch: latents along a token's side; context: e, of the text states; pooled: q;
    positions: tokens along a side of the table of position embeddings; sample_size:
    latents along a side of the pictures of training; dual: the blocks that attend
    twice; qk_norm: whether queries and keys are normed.
    """

    in_channels: int
    out_channels: int
    patch: int
    layers: int
    heads: int
    head_width: int
    context: int
    pooled: int
    positions: int
    sample_size: int
    dual: tuple[int, ...] = ()
    qk_norm: bool = False

    @property
    def width(self) -> int:
        """The width d of both streams."""
        return self.heads * self.head_width


class Text(NamedTuple):
    """What the network is told of a text: states `[... m e]`, pooled `[... q]`."""

    states: jax.Array
    pooled: jax.Array


def position_table(config: MMDiTConfig) -> jax.Array:
    """Returns sines and cosines of columns, then of rows, `[1 positions^2 d]` float32.

    Places are measured in tokens of training: the table spans sample_size / patch.
    """
    side, quarter = config.positions, config.width // 4
    places = jnp.arange(side) * (config.sample_size // config.patch / side)
    rates = 10000.0 ** -(jnp.arange(quarter) / quarter)
    phase = places[:, None] * rates
    each = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)
    square = (side, side, 2 * quarter)
    columns, rows = (jnp.broadcast_to(a, square) for a in (each[None], each[:, None]))
    return jnp.concatenate([columns, rows], axis=-1).reshape(1, side**2, 4 * quarter)


def cropped(table, positions: int, rows: int, columns: int):
    """Takes the middle rows x columns tokens of a table `[1 positions^2 d]`."""
    top, left = (positions - rows) // 2, (positions - columns) // 2
    square = table.reshape(1, positions, positions, -1)
    middle = square[:, top : top + rows, left : left + columns]
    return middle.reshape(1, rows * columns, -1)


def normed(x, dtype):
    """Layer normalisation over the last axis without parameters, float32 inside."""
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(wide).mean(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(variance + EPSILON)).astype(dtype)


def time_sinusoids(timesteps) -> jax.Array:
    """Embeds times `[b]` in 0..1000 as `[b 256]` float32, cosines and then sines.

    As `layers.timestep_embedding`, its frequencies rounded once: times are no whole
    numbers here, and an ulp of a frequency is 1e-4 of a phase.
    """
    half = TIME_WIDTH // 2
    exponents = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32)
    rates = np.exp(np.float64(exponents / np.float32(half))).astype(np.float32)
    phase = timesteps.astype(jnp.float32)[:, None] * rates
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


class Modulation(Module):
    """Makes `count` rows of numbers `[b 1 d]` for a stream of an embedding `[b d]`."""

    count: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, embedding):
        width = embedding.shape[-1]
        dense = Dense(self.count * width, dtype=self.dtype, name="linear")
        return jnp.split(dense(nn.silu(embedding))[:, None], self.count, axis=-1)


class HeadNorm(Module):
    """The root mean square norm of each head's channels, with a scale, float32."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        power = jnp.square(wide).mean(-1, keepdims=True)
        y = wide * jax.lax.rsqrt(power + EPSILON) * scale.astype(jnp.float32)
        return y.astype(self.dtype)


class JointAttention(Module):
    """Attention of the image's tokens, with the text's among them where it is given.

    (x `[b n d]`, text `[b m d]` or None) to (x, text); last: the text's part is dropped
    and comes back None.
    """

    heads: int
    qk_norm: bool
    last: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, text=None):
        b, n, width = x.shape
        dense = partial(Dense, width, dtype=self.dtype)

        def project(tokens, names, norms):
            split = (b, tokens.shape[1], self.heads, width // self.heads)
            q, k, v = (dense(name=name)(tokens).reshape(split) for name in names)
            if self.qk_norm:
                q, k = (
                    HeadNorm(self.dtype, name=name)(a) for a, name in zip((q, k), norms)
                )
            return q, k, v

        parts = project(x, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        if text is not None:
            names = ("add_q_proj", "add_k_proj", "add_v_proj")
            more = project(text, names, ("norm_added_q", "norm_added_k"))
            parts = (jnp.concatenate(pair, axis=1) for pair in zip(parts, more))
        y = attention(*parts).reshape(b, -1, width)
        own = dense(name="to_out_0")(y[:, :n])
        if text is None or self.last:
            return own, None
        return own, dense(name="to_add_out")(y[:, n:])


class FeedForward(Module):
    """Linear to 4 d, gelu (its tanh form), Linear back."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = Dense(MLP_RATIO * width, dtype=self.dtype, name="net_0_proj")(x)
        y = jax.nn.gelu(y, approximate=True)
        return Dense(width, dtype=self.dtype, name="net_2")(y)


class JointBlock(Module):
    """One block over both streams: joint attention, then a feed-forward each.

    (x `[b n d]`, text `[b m d]`, embedding `[b d]`) to (x, text); last: the text is
    only attended to, and comes back None. dual: a second attention of x alone.
    """

    heads: int
    qk_norm: bool
    dual: bool = False
    last: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, text, embedding):
        attend = partial(JointAttention, self.heads, self.qk_norm, dtype=self.dtype)
        rows = Modulation(9 if self.dual else 6, self.dtype, name="norm1")(embedding)
        shift, scale, gate, *mlp = rows[:6]
        base = normed(x, self.dtype)
        own = base * (1 + scale) + shift
        more, others = self._text_rows(text, embedding)
        y, words = attend(last=self.last, name="attn")(own, more)
        x = x + gate * y
        if self.dual:
            shift, scale, gate = rows[6:]
            y, _ = attend(name="attn2")(base * (1 + scale) + shift)
            x = x + gate * y
        x = self._fed_forward(x, mlp, "ff")
        if self.last:
            return x, None
        gate, *mlp = others
        text = text + gate * jnp.asarray(words)
        return x, self._fed_forward(text, mlp, "ff_context")

    def _text_rows(self, text, embedding):
        # the normed text, and what of its modulation comes later
        count = 2 if self.last else 6
        name = "norm1_context"
        rows = Modulation(count, self.dtype, name=name)(embedding)
        if self.last:
            scale, shift = rows  # in this order here, as published
        else:
            shift, scale = rows[:2]
        return normed(text, self.dtype) * (1 + scale) + shift, rows[2:]

    def _fed_forward(self, x, rows, name):
        shift, scale, gate = rows
        y = normed(x, self.dtype) * (1 + scale) + shift
        return x + gate * FeedForward(self.dtype, name=name)(y)


class MMDiT(Module):
    """The transformer: (z_t `[b h w c]`, s `[b]`, a `Text` with leading b) to v.

    v `[b h w c]` has z_t's type. class_embedding `[b d]`: added to the embedding of s
    (VSD's own camera; see unets/lora.py). remat: what the gradient keeps of the blocks
    (layers.REMAT). Raises ValueError for sides that are no multiples of the patch or
    larger than the table of positions.
    """

    config: MMDiTConfig
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, sample, timesteps, told: Text, class_embedding=None):
        cfg, (b, h, w, _) = self.config, sample.shape
        rows, columns = h // cfg.patch, w // cfg.patch
        self._check(h, w)
        embedding = self._embedding(timesteps, told.pooled, class_embedding)
        x = Conv(
            cfg.width, 2 * (cfg.patch,), 2 * (cfg.patch,), "VALID", dtype=self.dtype,
            name="pos_embed_proj",
        )(sample.astype(self.dtype)).reshape(b, rows * columns, cfg.width)  # fmt: skip
        table = self.param("pos_embed", lambda key: position_table(cfg))
        x = x + cropped(table, cfg.positions, rows, columns).astype(self.dtype)
        text = Dense(cfg.width, dtype=self.dtype, name="context_embedder")(
            told.states.astype(self.dtype)
        )
        joint = rematerialised(JointBlock, self.remat)
        for i in range(cfg.layers):
            x, text = joint(
                cfg.heads, cfg.qk_norm, i in cfg.dual, i == cfg.layers - 1, self.dtype,
                name=f"transformer_blocks_{i}",
            )(x, text, embedding)  # fmt: skip
        scale, shift = Modulation(2, self.dtype, name="norm_out")(embedding)
        x = normed(x, self.dtype) * (1 + scale) + shift
        patches = Dense(
            cfg.patch**2 * cfg.out_channels, dtype=self.dtype, name="proj_out"
        )(x)
        patches = patches.reshape(b, rows, columns, cfg.patch, cfg.patch, -1)
        out = patches.swapaxes(2, 3).reshape(b, h, w, cfg.out_channels)
        return out.astype(sample.dtype)

    def _check(self, height: int, width: int) -> None:
        cfg = self.config
        for side in (height, width):
            if side % cfg.patch or side > cfg.patch * cfg.positions:
                raise ValueError(
                    f"{height}x{width} latents: both sides must be multiples of "
                    f"{cfg.patch} up to {cfg.patch * cfg.positions}"
                )

    def _embedding(self, timesteps, pooled, class_embedding):
        width = self.config.width
        sinusoids = time_sinusoids(timesteps).astype(self.dtype)
        embed = partial(TimeEmbedding, width, self.dtype)
        time = embed(name="timestep_embedder")(sinusoids)
        embedding = time + embed(name="text_embedder")(pooled.astype(self.dtype))
        if class_embedding is not None:
            embedding = embedding + class_embedding.astype(self.dtype)
        return embedding
