"""T5 v1.1's encoder: token ids to the states that condition DeepFloyd IF.

Notation: ids `[b n]` integers; mask `[b n]`, True (or 1) at tokens, False at padding;
states `[b n d]` after the final norm; k heads of c channels each. There are no position
embeddings: a bias for the distance between query and key, learnt once per head, is
added to the logits of every block. Logits are not divided by sqrt c. The residual
stream, the norms, softmax and the last product of the feed-forward are float32 whatever
`dtype` is: there T5's activations leave the range of float16.

Source: Raffel et al. 2020 (arXiv 1910.10683), its version 1.1 (gated feed-forward,
Shazeer 2020, arXiv 2002.05202), as published in Hugging Face's `T5EncoderModel`.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.parameters import Dense, Module


class T5Config(NamedTuple):
    """What of a T5 encoder's config.json decides its arithmetic.

    head_width: channels of one head; buckets, max_distance: of the position bias.
    """

    vocab_size: int
    hidden: int
    head_width: int
    mlp: int
    layers: int
    heads: int
    buckets: int
    max_distance: int
    epsilon: float


def distance_buckets(tokens: int, buckets: int, max_distance: int) -> np.ndarray:
    """Returns the bucket `[n n]` of (query, key), both directions having half of them.

    Distances under a quarter of `buckets` have one each, larger ones share them
    logarithmically up to `max_distance` (arXiv 1910.10683, section 2.1).
    """
    half, exact = buckets // 2, buckets // 4
    offset = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    distance = np.abs(offset)
    # float32 as in training: a boundary distance falls where rounding puts it
    scale = np.float32(math.log(max_distance / exact))
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    coarse = exact + (np.log(ratio) / scale * np.float32(half - exact)).astype(int)
    coarse = np.minimum(coarse, half - 1)
    return (offset > 0) * half + np.where(distance < exact, distance, coarse)


def biased_attention(q, k, v, bias, mask=None):
    """Computes softmax(q k^T + bias) v over `[b n k c]`, softmax in float32.

    bias `[k n n]`.

    mask: `[b n]`, False at keys that nothing attends to.
    """
    logits = jnp.einsum("bqkc,bnkc->bkqn", q, k, preferred_element_type=jnp.float32)
    logits = logits + bias.astype(jnp.float32)
    if mask is not None:
        keep = mask.astype(bool)[:, None, None, :]
        logits = jnp.where(keep, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkqn,bnkc->bqkc", weights, v)


class RMSNorm(Module):
    """The norm x / sqrt(mean x^2 + epsilon) times a scale, float32.

    Source: arXiv 1910.07467.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        power = jnp.square(wide).mean(-1, keepdims=True)
        return wide * jax.lax.rsqrt(power + self.epsilon) * scale.astype(jnp.float32)


class SelfAttention(Module):
    """Multi-head attention without biases; heads may be wider than `hidden`."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, bias, mask):
        cfg, (b, n, _) = self.config, x.shape
        width = cfg.heads * cfg.head_width

        def project(name):
            y = Dense(width, use_bias=False, dtype=self.dtype, name=name)(x)
            return y.reshape(b, n, cfg.heads, cfg.head_width)

        y = biased_attention(project("q"), project("k"), project("v"), bias, mask)
        out = Dense(cfg.hidden, use_bias=False, dtype=self.dtype, name="o")
        return out(y.reshape(b, n, width))


class GatedFeedForward(Module):
    """A gated feed-forward layer: wo(gelu_tanh(wi_0 x) * wi_1 x), wo in float32."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        def dense(width, name, dtype=self.dtype):
            return Dense(width, use_bias=False, dtype=dtype, name=name)

        gate = jax.nn.gelu(dense(self.config.mlp, "wi_0")(x), approximate=True)
        value = dense(self.config.mlp, "wi_1")(x)
        product = gate.astype(jnp.float32) * value.astype(jnp.float32)
        return dense(self.config.hidden, "wo", jnp.float32)(product)


class Block(Module):
    """Attention and feed-forward, each pre-normed and residual."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, bias, mask):
        epsilon = self.config.epsilon
        y = RMSNorm(epsilon, name="attention_norm")(x)
        y = SelfAttention(self.config, self.dtype, name="attention")(y, bias, mask)
        x = x + y.astype(jnp.float32)
        y = RMSNorm(epsilon, name="feed_forward_norm")(x)
        return x + GatedFeedForward(self.config, self.dtype, name="feed_forward")(y)


class T5Encoder(Module):
    """T5's encoder: ids and mask `[b n]` (or None) to states `[b n d]` in `dtype`."""

    config: T5Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None):
        cfg, n = self.config, input_ids.shape[1]
        init = nn.initializers.normal(1.0)
        tokens = self.param("token_embedding", init, (cfg.vocab_size, cfg.hidden))
        table = self.param("relative_bias", init, (cfg.buckets, cfg.heads))
        buckets = distance_buckets(n, cfg.buckets, cfg.max_distance)
        bias = table[buckets].transpose(2, 0, 1)
        x = tokens[input_ids].astype(jnp.float32)
        for i in range(cfg.layers):
            block = Block(cfg, self.dtype, name=f"blocks_{i}")
            x = block(x, bias, attention_mask)
        return RMSNorm(cfg.epsilon, name="final_norm")(x).astype(self.dtype)
