"""SDXLUNet: Stable Diffusion XL's UNet, which is told a picture's size and pooled text.

Notation: z_t `[b h w c]`; t `[b]`; d the width of the text states, p that of the pooled
text, f that of one number's sinusoids. What the network is told beside z_t and t is one
pytree, `TextAndSize`. Its pooled text and the sinusoids of its six numbers, in a row
`[p + 6 f]`, pass through Linear, SiLU, Linear and are added to the embedding of t; all
else is the UNet of Stable Diffusion 2 with several transformer blocks in a place.

Source: Podell et al. 2023 (arXiv 2307.01952), sec. 2.2, as published in Hugging Face's
`UNet2DConditionModel` with `addition_embed_type` "text_time".
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax.models.layers import timestep_embedding
from sdsjax.models.parameters import Module
from sdsjax.models.unets.stable_diffusion import (
    TimeEmbedding,
    UNet2DCondition,
    UNetConfig,
)

# original height and width, crop from the top and the left, target height and width
SIZES = 6


class SDXLConfig(NamedTuple):
    """A UNet, and the widths of what else it is told.

    pooled: p, of the text's pooled projection; size_width: f, of one number's
    sinusoids.
    """

    unet: UNetConfig
    pooled: int
    size_width: int


class TextAndSize(NamedTuple):
    """What the network is told of a text and of the picture's size.

    states `[... n d]`; pooled `[... p]`; sizes `[... 6]` float32, pixels.
    """

    states: jax.Array
    pooled: jax.Array
    sizes: jax.Array


def own_size(height: int, width: int) -> jax.Array:
    """The six numbers of a picture that was neither resized nor cropped, float32."""
    return jnp.asarray([height, width, 0, 0, height, width], jnp.float32)


class SDXLUNet(Module):
    """SDXL's UNet: (z_t, t `[b]`, a TextAndSize with leading b) to `[b h w c]`.

    class_embedding `[b time_width]`: added to the embedding of t (VSD's own camera; see
    lora.py). remat: what the gradient keeps of the blocks (layers.REMAT).
    """

    config: SDXLConfig
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(self, sample, timesteps, told: TextAndSize, class_embedding=None):
        cfg = self.config
        sinusoids = timestep_embedding(told.sizes.reshape(-1), cfg.size_width)
        sinusoids = sinusoids.reshape(-1, SIZES * cfg.size_width)
        row = [told.pooled.astype(self.dtype), sinusoids.astype(self.dtype)]
        embed = TimeEmbedding(cfg.unet.time_width, self.dtype, name="add_embedding")
        added = embed(jnp.concatenate(row, axis=-1))
        if class_embedding is not None:
            added = added + class_embedding.astype(self.dtype)
        unet = UNet2DCondition(cfg.unet, self.dtype, remat=self.remat, name="unet")
        return unet(sample, timesteps, told.states, class_embedding=added)
