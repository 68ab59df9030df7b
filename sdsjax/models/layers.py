"""Layers shared by the networks: norms, convolutions, attention, residual blocks.

Notation: b batch, h w rows and columns, c channels, n tokens, k heads, d channels of
one head, g groups. Images are `[b h w c]`, token sequences `[b n c]`. `dtype` is the
type of activations and matrix products; norm statistics, softmax and the embedding of
time are float32 whatever it is. Submodules carry the names that torch's diffusers and
transformers give them, with an underscore where torch has a dot before a number.

Sources: Rombach et al. 2022 (arXiv 2112.10752); Ho et al. 2020 (arXiv 2006.11239);
Vaswani et al. 2017 (arXiv 1706.03762); Shazeer 2020 for GEGLU (arXiv 2002.05202).
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax.backend import target
from sdsjax.models.attention import attention_kernel, fused_attention, query_chunk
from sdsjax.models.parameters import Conv, Dense, Module

# What the backward pass finds of a network's blocks: by name, jax.checkpoint's policy.
# "none" keeps all that a block computed; "blocks" its inputs alone, and computes it
# again; "dots" also the results of matrix products and convolutions.
REMAT = {"none": None, "blocks": None, "dots": jax.checkpoint_policies.dots_saveable}

gelu_exact = partial(jax.nn.gelu, approximate=False)


def quick_gelu(x):
    """Computes x sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def timestep_embedding(t, width: int):
    """Embeds timesteps `[b]` (integers or reals) as `[b width]` float32, `[cos, sin]`.

    Frequencies 10000^(-i / (width / 2)); arXiv 1706.03762, section 3.5, in the order
    that Stable Diffusion uses.
    """
    half = width // 2
    rates = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    phase = t.astype(jnp.float32)[:, None] * rates
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


def attention(q, k, v, mask=None):
    """Computes softmax(q k^T / sqrt d) v over `[b n k d]`, softmax in float32.

    mask: boolean, broadcastable to `[b k n n]`, True where attention is allowed. On a
    GPU cuDNN computes it where it can, on a CPU large ones go chunk by chunk
    (attention.py).
    """
    device, masked = target(), mask is not None
    lengths = q.shape[1], k.shape[1]
    if attention_kernel(*device, v.dtype, q.shape[-1], lengths, masked) == "cudnn":
        return fused_attention(q, k, v)
    q, k, v = (a.swapaxes(1, 2) for a in (q * q.shape[-1] ** -0.5, k, v))
    size = query_chunk(device.platform, q.shape[2], k.shape[2], masked)
    y = _weigh(q, k, v, mask) if size is None else _weigh_by_chunks(q, k, v, size)
    return y.astype(v.dtype).swapaxes(1, 2)


def _weigh_by_chunks(q, k, v, size: int):
    """`_weigh` of `[b k n d]`, a head and `size` queries at a time; the backward pass
    computes each chunk's weights anew instead of keeping all of them."""

    def head(arrays):
        q, k, v = arrays
        part = jax.checkpoint(lambda queries: _weigh(queries, k, v))
        return jax.lax.map(part, q.reshape(-1, size, q.shape[-1])).reshape(q.shape)

    flat = (a.reshape(-1, *a.shape[2:]) for a in (q, k, v))
    return jax.lax.map(head, tuple(flat)).reshape(q.shape)


@partial(jax.jit, inline=True)
def _weigh(q, k, v, mask=None):
    """softmax(q k^T) v of `[... n d]`, float32; the weights are normalised after the
    product with v, on the smaller array."""
    logits = jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    y = jnp.einsum(
        "...qk,...kd->...qd",
        weights.astype(v.dtype),
        v,
        preferred_element_type=jnp.float32,
    )
    return y / total


def rematerialised(block: type[nn.Module], remat: str) -> type[nn.Module]:
    """Makes a block's class compute itself again in the backward pass, or returns it.

    remat: a name of REMAT. What the block computes, its parameters and their names are
    the same. Raises ValueError for another name.
    """
    if remat not in REMAT:
        raise ValueError(f"remat = {remat!r}: allowed are {', '.join(REMAT)}")
    return block if remat == "none" else nn.remat(block, policy=REMAT[remat])


def upsample_nearest(x):
    """Repeats each pixel: `[b h w c]` becomes `[b 2h 2w c]`."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


class GroupNorm(Module):
    """Group normalisation of `[b ... c]` (arXiv 1803.08494), statistics in float32.

    Moments are taken per channel first and then pooled over the channels of a group,
    so that the large array is never reshaped to a group axis; what is applied is one
    multiply-add.
    """

    groups: int
    epsilon: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,)).astype(jnp.float32)
        return _group_norm(x, scale, bias, self.groups, self.epsilon, self.dtype)


# Written into the program as if it were not jitted (without `inline` a run's last bits
# change), but traced once for equal shapes, of which a network has many. So are
# LayerNorm's arithmetic below and attention's above.
@partial(jax.jit, static_argnums=(3, 4, 5), inline=True)
def _group_norm(x, scale, bias, groups: int, epsilon: float, dtype):
    """(x - mean) / sqrt(variance + epsilon) scale + bias over `[b ... c]`, by group."""
    c, space = x.shape[-1], tuple(range(1, x.ndim - 1))

    def pool(m):  # [b c] means over space -> [b c] means over space and group
        m = m.reshape(m.shape[0], groups, c // groups)
        return jnp.broadcast_to(m.mean(-1, keepdims=True), m.shape).reshape(-1, c)

    def spread(m):
        return m.reshape(m.shape[0], *(1 for _ in space), c)

    wide = x.astype(jnp.float32)
    mean = pool(wide.mean(space))
    # two passes: E[x^2] - E[x]^2 loses float32's digits where |mean| >> std
    variance = pool(jnp.square(wide - spread(mean)).mean(space))
    gain = scale * jax.lax.rsqrt(variance + epsilon)
    return (wide * spread(gain) + spread(bias - mean * gain)).astype(dtype)


class LayerNorm(Module):
    """Layer normalisation over the last axis (arXiv 1607.06450), float32 inside."""

    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,)).astype(jnp.float32)
        return _layer_norm(x, scale, bias, self.epsilon, self.dtype)


@partial(jax.jit, static_argnums=(3, 4), inline=True)
def _layer_norm(x, scale, bias, epsilon: float, dtype):
    """(x - mean) / sqrt(variance + epsilon) scale + bias, over the last axis."""
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(wide).mean(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(variance + epsilon) * scale + bias).astype(dtype)


def conv(features, size, dtype, name, *, stride=1, padding=None, zero=False):
    """Square convolution; `padding` counts pixels per side (default: size // 2)."""
    pad = size // 2 if padding is None else padding
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=pad if isinstance(pad, tuple) else ((pad, pad), (pad, pad)),
        dtype=dtype,
        kernel_init=init,
        name=name,
    )


class Downsample(Module):
    """A 3x3 convolution of stride 2; `asymmetric` pads right and bottom only (VAE)."""

    channels: int
    asymmetric: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        padding = ((0, 1), (0, 1)) if self.asymmetric else ((1, 1), (1, 1))
        return conv(self.channels, 3, self.dtype, "conv", stride=2, padding=padding)(x)


class Upsample(Module):
    """Nearest-neighbour doubling, cropped to `size` (h, w), then a 3x3 convolution."""

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, size=None):
        x = upsample_nearest(x)
        if size is not None:
            x = x[:, : size[0], : size[1]]
        return conv(self.channels, 3, self.dtype, "conv")(x)


class ResnetBlock(Module):
    """A residual block that the time may shift.

    norm, silu, conv, + Linear(silu(time)), norm, silu, conv, + shortcut.
    """

    channels: int
    groups: int
    epsilon: float
    zero: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, time=None):
        norm = partial(GroupNorm, self.groups, self.epsilon, self.dtype)
        h = conv(self.channels, 3, self.dtype, "conv1")(nn.silu(norm(name="norm1")(x)))
        if time is not None:
            dense = Dense(self.channels, dtype=self.dtype, name="time_emb_proj")
            h = h + dense(nn.silu(time))[:, None, None, :]
        h = nn.silu(norm(name="norm2")(h))
        h = conv(self.channels, 3, self.dtype, "conv2", zero=self.zero)(h)
        if x.shape[-1] != self.channels:
            x = conv(self.channels, 1, self.dtype, "conv_shortcut")(x)
        return x + h


class Attention(Module):
    """Multi-head attention of `[b n c]` tokens over `context` (default: themselves)."""

    heads: int
    qkv_bias: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, context=None):
        b, n, c = x.shape
        context = x if context is None else context
        split = (self.heads, c // self.heads)

        def project(name, tokens):
            dense = Dense(c, self.qkv_bias, dtype=self.dtype, name=name)
            return dense(tokens).reshape(b, tokens.shape[1], *split)

        q, k, v = project("to_q", x), project("to_k", context), project("to_v", context)
        y = attention(q, k, v).reshape(b, n, c)
        return Dense(c, dtype=self.dtype, name="to_out_0")(y)


class FeedForward(Module):
    """A gated feed-forward layer.

    c -> 8c, split into (value, gate), value * gelu_exact(gate), 4c -> c.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        both = Dense(8 * c, dtype=self.dtype, name="net_0_proj")(x)
        value, gate = jnp.split(both, 2, axis=-1)
        return Dense(c, dtype=self.dtype, name="net_2")(value * gelu_exact(gate))


class TransformerBlock(Module):
    """Self-attention, cross-attention, feed-forward, each pre-normed and residual.

    group: how many consecutive rows of the batch the self-attention sees as one
    sequence (the views of a multi-view UNet).
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
    group: int = 1

    @nn.compact
    def __call__(self, x, context):
        norm = partial(LayerNorm, 1e-5, self.dtype)
        attend = partial(Attention, self.heads, False, self.dtype)
        together = (x.shape[0] // self.group, -1, x.shape[2])
        own = norm(name="norm1")(x).reshape(together)
        x = x + attend(name="attn1")(own).reshape(x.shape)
        x = x + attend(name="attn2")(norm(name="norm2")(x), context)
        return x + FeedForward(self.dtype, name="ff")(norm(name="norm3")(x))


class SpatialTransformer(Module):
    """Transformer blocks over the pixels of `[b h w c]`, text `[b n d]` as context.

    `linear` projects in and out by Linear (SD 2), else by a 1x1 convolution (SD 1);
    `group`: see `TransformerBlock`; `depth`: how many blocks (1 before SDXL); `remat`:
    what their gradients keep of them (REMAT).
    """

    heads: int
    groups: int
    linear: bool
    dtype: jnp.dtype = jnp.float32
    group: int = 1
    depth: int = 1
    remat: str = "none"

    @nn.compact
    def __call__(self, x, context):
        b, h, w, c = x.shape
        if self.linear:
            project = partial(Dense, c, dtype=self.dtype)
        else:
            project = partial(Conv, c, (1, 1), dtype=self.dtype)
        y = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x)
        y = project(name="proj_in")(y).reshape(b, h * w, c)
        transformer = rematerialised(TransformerBlock, self.remat)
        for i in range(self.depth):
            block = transformer(
                self.heads, self.dtype, self.group, name=f"transformer_blocks_{i}"
            )
            y = block(y, context)
        zeros = nn.initializers.zeros
        y = project(name="proj_out", kernel_init=zeros)(y.reshape(b, h, w, c))
        return x + y
