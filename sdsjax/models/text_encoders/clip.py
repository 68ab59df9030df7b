"""CLIP's text encoder: token ids to the states that condition the denoiser.

Notation: ids `[b n]` integers; states `[b n d]` after the final layer norm. Causal
mask, no padding mask: pad tokens attend and are attended to, as in training.

Source: Radford et al. 2021 (arXiv 2103.00020) as published in Hugging Face's
`CLIPTextModel`; SD 1 takes OpenAI's (quick_gelu), SD 2 OpenCLIP's (exact gelu).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from sdsjax.models.layers import LayerNorm, attention, gelu_exact, quick_gelu
from sdsjax.models.parameters import Dense, Module

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu_exact}


class CLIPTextConfig(NamedTuple):
    """What of a text encoder's config.json decides its arithmetic."""

    vocab_size: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    positions: int
    activation: str
    epsilon: float


class SelfAttention(Module):
    """Multi-head attention, every projection with a bias; causal unless told not to."""

    heads: int
    dtype: jnp.dtype = jnp.float32
    causal: bool = True

    @nn.compact
    def __call__(self, x):
        b, n, c = x.shape

        def project(name):
            y = Dense(c, dtype=self.dtype, name=name)(x)
            return y.reshape(b, n, self.heads, c // self.heads)

        mask = jnp.tril(jnp.ones((n, n), bool)) if self.causal else None
        q, k, v = (project(name) for name in ("q_proj", "k_proj", "v_proj"))
        y = attention(q, k, v, mask).reshape(b, n, c)
        return Dense(c, dtype=self.dtype, name="out_proj")(y)


class EncoderLayer(Module):
    """Attention and MLP, each pre-normed and residual.

    config: a CLIPTextConfig, or what has the same hidden, mlp, heads, activation and
    epsilon.
    """

    config: Any
    dtype: jnp.dtype = jnp.float32
    causal: bool = True

    @nn.compact
    def __call__(self, x):
        cfg = self.config
        y = LayerNorm(cfg.epsilon, self.dtype, name="layer_norm1")(x)
        attend = SelfAttention(cfg.heads, self.dtype, self.causal, name="self_attn")
        x = x + attend(y)
        y = LayerNorm(cfg.epsilon, self.dtype, name="layer_norm2")(x)
        y = Dense(cfg.mlp, dtype=self.dtype, name="mlp_fc1")(y)
        y = ACTIVATIONS[cfg.activation](y)
        return x + Dense(cfg.hidden, dtype=self.dtype, name="mlp_fc2")(y)


class CLIPTextEncoder(Module):
    """CLIP's text encoder: ids `[b n]` to states `[b n d]`.

    n is at most `config.positions`. penultimate: also the states before the last layer,
    which no norm has seen: (those, the states), as SDXL asks (arXiv 2307.01952).
    """

    config: CLIPTextConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, input_ids, penultimate: bool = False) -> Any:
        cfg, n = self.config, input_ids.shape[1]
        if n > cfg.positions:
            raise ValueError(f"{n} tokens: the encoder has {cfg.positions} positions")

        def embedding(name, rows, std):
            init = nn.initializers.normal(std)
            return self.param(name, init, (rows, cfg.hidden))

        tokens = embedding("token_embedding", cfg.vocab_size, 0.02)
        places = embedding("position_embedding", cfg.positions, 0.01)
        x = (tokens[input_ids] + places[:n]).astype(self.dtype)
        before = x
        for i in range(cfg.layers):
            before = x
            x = EncoderLayer(cfg, self.dtype, name=f"layers_{i}")(x)
        states = LayerNorm(cfg.epsilon, self.dtype, name="final_layer_norm")(x)
        return (before, states) if penultimate else states


class CLIPProjectionConfig(NamedTuple):
    """A text encoder with the projection of its end token (OpenCLIP-bigG's in SDXL).

    end: the id of the end token; 2, which older files say whatever their vocabulary,
    means the largest id of a text.
    """

    text: CLIPTextConfig
    projection: int
    end: int


class CLIPTextProjection(Module):
    """A text encoder with projection: ids to states and a pooled text.

    `[b n]` to (`[b n d]`, `[b p]`). states: those before the last layer; pooled: the
    first end token's normed last state, projected without a bias.
    """

    config: CLIPProjectionConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, input_ids):
        cfg = self.config
        encoder = CLIPTextEncoder(cfg.text, self.dtype, name="text_model")
        penultimate, states = encoder(input_ids, penultimate=True)
        marks = input_ids if cfg.end == 2 else input_ids == cfg.end
        end = jnp.argmax(marks, axis=1)
        last = jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0]
        dense = Dense(cfg.projection, False, self.dtype, name="text_projection")
        return penultimate, dense(last)
