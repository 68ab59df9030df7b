"""CLIP's two towers: how far an image is from a text.

Notation: rgb `[b h w 3]` in [0, 1]; ids `[n k]` integers, k tokens; embeddings `[b p]`
and `[n p]`, unit vectors in the common space. CLIP distance = 1 - cos, in [0, 2]
(SteinDreamer, arXiv 2401.00604, reports it over 8 views; lower is closer).

Preparation, in JAX and differentiable: the shorter side resized to the tower's size by
a bicubic kernel (a = -1/2) that widens where it shrinks, the middle square, clipped to
[0, 1], CLIP's mean and deviation of each channel. Published tools round to 8 bits in
between, which this does not.

Source: Radford et al. 2021 (arXiv 2103.00020) as published in Hugging Face's
`CLIPModel`. The vision tower normalises before its first layer and, of the result, the
class token only; both projections are without bias.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax.models.layers import LayerNorm
from sdsjax.models.parameters import Conv, Dense, Module
from sdsjax.models.text_encoders.clip import (
    CLIPTextConfig,
    CLIPTextEncoder,
    EncoderLayer,
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class CLIPVisionConfig(NamedTuple):
    """What of a vision tower's config decides its arithmetic."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    image_size: int
    patch: int
    in_channels: int
    activation: str
    epsilon: float

    @property
    def positions(self) -> int:
        """Tokens: the class token and every patch."""
        return 1 + (self.image_size // self.patch) ** 2


class CLIPConfig(NamedTuple):
    """The configs of both towers.

    projection: p; end_id: the token whose state is the text's, None for the largest id
    (what the oldest files mean by their end token of 2).
    """

    text: CLIPTextConfig
    vision: CLIPVisionConfig
    projection: int
    end_id: int | None


class CLIPVisionEncoder(Module):
    """Prepared images `[b s s 3]` -> the class token's state `[b d]`."""

    config: CLIPVisionConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        cfg, size = self.config, self.config.patch
        if x.shape[1:3] != (cfg.image_size, cfg.image_size):
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels: the tower takes "
                f"{cfg.image_size} x {cfg.image_size}; prepare() resizes"
            )
        normal = nn.initializers.normal(0.02)
        token = self.param("class_embedding", normal, (cfg.hidden,))
        shape = (cfg.positions, cfg.hidden)
        places = self.param("position_embedding", normal, shape)
        patches = Conv(
            cfg.hidden, (size, size), (size, size), "VALID", use_bias=False,
            dtype=self.dtype, name="patch_embedding",
        )(x.astype(self.dtype))  # fmt: skip
        b = x.shape[0]
        token = jnp.broadcast_to(token.astype(self.dtype), (b, 1, cfg.hidden))
        x = jnp.concatenate([token, patches.reshape(b, -1, cfg.hidden)], axis=1)
        x = x + places.astype(self.dtype)
        x = LayerNorm(cfg.epsilon, self.dtype, name="pre_layernorm")(x)
        for i in range(cfg.layers):
            layer = EncoderLayer(cfg, self.dtype, causal=False, name=f"layers_{i}")
            x = layer(x)
        return LayerNorm(cfg.epsilon, self.dtype, name="post_layernorm")(x[:, 0])


class CLIP(Module):
    """CLIP's two towers; called with (images, ids) they give cosines `[b n]`.

    `embed_images`: prepared images -> `[b p]`; `embed_texts`: ids -> `[n p]`; both
    float32 and of length one.
    """

    config: CLIPConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        cfg = self.config
        self.vision = CLIPVisionEncoder(cfg.vision, self.dtype)
        self.text = CLIPTextEncoder(cfg.text, self.dtype)
        self.visual_projection = Dense(cfg.projection, False, self.dtype)
        self.text_projection = Dense(cfg.projection, False, self.dtype)
        # what training multiplied cosines by; kept because every file holds it
        self.logit_scale = self.param("logit_scale", nn.initializers.ones, ())

    def embed_images(self, x):
        """Embeds prepared images `[b h w 3]` as unit vectors `[b p]`, float32."""
        return _unit(self.visual_projection(self.vision(x)))

    def embed_texts(self, ids):
        """Embeds token ids `[n m]` as unit vectors `[n p]`, float32."""
        states = self.text(ids)
        wanted = self.config.end_id
        marks = ids if wanted is None else ids == wanted
        end = jnp.argmax(marks, axis=-1)  # the first one: what pads may repeat it
        states = jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0]
        return _unit(self.text_projection(states))

    def __call__(self, x, ids):
        images, texts = self.embed_images(x), self.embed_texts(ids)
        return jnp.matmul(images, texts.T, precision=jax.lax.Precision.HIGHEST)


def _unit(v):
    v = v.astype(jnp.float32)
    square = jnp.sum(v**2, axis=-1, keepdims=True)
    return v * jax.lax.rsqrt(jnp.maximum(square, 1e-20))


def prepare(rgb, size: int):
    """Prepares rgb `[b h w 3]` in [0, 1] as the vision tower was trained.

    Returns `[b size size 3]`. Differentiable, except through the clip where the bicubic
    kernel overshoots.
    """
    b, h, w, c = rgb.shape
    shorter = min(h, w)
    height, width = (side * size // shorter for side in (h, w))
    if (h, w) != (height, width):
        shape = (b, height, width, c)
        rgb = jax.image.resize(rgb, shape, "cubic", antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    rgb = jnp.clip(rgb[:, top : top + size, left : left + size], 0.0, 1.0)
    mean, deviation = jnp.array(MEAN, rgb.dtype), jnp.array(DEVIATION, rgb.dtype)
    return (rgb - mean) / deviation


def clip_distance(network, tokenizer) -> Callable:
    """Makes the function (rgb `[b h w 3]` in [0, 1], n texts) -> 1 - cos `[b n]`.

    network, tokenizer: what `companions.load_clip_scorer` gives. Longer texts than the
    tower has positions lose their tail, with the tokenizer's warning.
    """
    module, params = network.module, {"params": network.params}
    size = network.config.vision.image_size

    @jax.jit
    def cosines(params, rgb, ids):
        return module.apply(params, prepare(rgb, size), ids)

    def distance(rgb, texts):
        rgb = jnp.asarray(rgb)
        if rgb.ndim != 4 or rgb.shape[-1] != 3:
            raise ValueError(f"images have shape {rgb.shape}; expected [b h w 3]")
        return 1.0 - cosines(params, rgb, jnp.asarray(tokenizer(texts)))

    return distance
