"""DPT: relative disparity, or surface normals, from one image.

Notation: x `[b h w 3]` in [-1, 1], h and w multiples of the patch p; n = (h/p)(w/p)
patches and one readout token, c channels of the backbone; disparity `[b h w]` >= 0,
known up to scale and shift (1 / depth, so larger is nearer); normals `[b h w 3]`, unit.

A ViT's tokens after four of its layers are put back into images at 4, 2, 1 and 1/2 of
the patch grid, and fused from the coarsest up by bilinear doublings that align corners.
In a hybrid the patches and the two finest maps come of convolutions (bit.py).
Normals come from the same layout with three output channels, n = 2 y - 1 with y clipped
to [0, 1] (as in Omnidata, whose camera axes they then have), or, from any disparity, by
`normals_from_disparity`.

Sources: Ranftl et al. 2021 (arXiv 2103.13413) as published in Hugging Face's
`DPTForDepthEstimation`; MiDaS (arXiv 1907.01341); Omnidata (arXiv 2110.04994).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.layers import LayerNorm, attention, conv
from sdsjax.models.parameters import Conv, Dense, Module
from sdsjax.models.text_encoders.clip import ACTIVATIONS
from sdsjax.models.vision.bit import Bit, BitConfig

STAGES = 2  # of a hybrid's stem that go to the decoder


class DPTConfig(NamedTuple):
    """What of a DPT's config.json decides its arithmetic.

    taps: the backbone's layers that are read (from 0); factors: their scales relative
    to the patch grid, whole numbers up, 1/2 down; necks: their channels; fusion: the
    channels of the decoder; outputs: 1 for disparity, 3 for normals; stem: a hybrid's
    convolutions, whose first two stages stand for the first two taps and whose last one
    for the pixels that are cut into patches. Those two taps' indices and factors are
    read by nobody.
    """

    hidden: int
    mlp: int
    layers: int
    heads: int
    image_size: int
    patch: int
    in_channels: int
    activation: str
    epsilon: float
    qkv_bias: bool
    taps: tuple[int, ...]
    factors: tuple[float, ...]
    necks: tuple[int, ...]
    fusion: int
    outputs: int = 1
    stem: BitConfig | None = None

    @property
    def read(self) -> tuple[int, ...]:
        """The backbone's layers whose tokens are read."""
        return self.taps if self.stem is None else self.taps[STAGES:]

    @property
    def grid(self) -> int:
        """Patches a side of the images that it was trained on."""
        return self.image_size // self.patch


def _aligned(size: int, out: int) -> np.ndarray:
    """`[out size]`: linear interpolation where first and last samples coincide."""
    places = np.linspace(0.0, size - 1.0, out)
    left = np.minimum(places.astype(int), max(size - 2, 0))
    weights = np.zeros((out, size))
    weights[np.arange(out), left] = 1.0 - (places - left)
    weights[np.arange(out), np.minimum(left + 1, size - 1)] += places - left
    return weights


def resize_aligned(x, height: int, width: int):
    """Resizes `[b h w c]` to `[b height width c]`, bilinear with corners aligned.

    Output row i reads input row i (h - 1) / (height - 1). Two matrix products: the
    pullback is two more, without scatters.
    """
    down, across = (_aligned(*pair) for pair in zip(x.shape[1:3], (height, width)))
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("ih,bhwc->biwc", jnp.asarray(down, x.dtype), x, precision=exact)
    return jnp.einsum("jw,biwc->bijc", jnp.asarray(across, x.dtype), x, precision=exact)


def _bilinear(x, height, width):
    # half-pixel centres and no smoothing: what the published resize of grids does
    if x.shape[1:3] == (height, width):
        return x
    shape = (*x.shape[:-3], height, width, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


class VisionAttention(Module):
    """Multi-head self-attention of `[b n c]`."""

    heads: int
    bias: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, n, c = x.shape

        def project(name):
            y = Dense(c, self.bias, dtype=self.dtype, name=name)(x)
            return y.reshape(b, n, self.heads, c // self.heads)

        y = attention(*(project(name) for name in ("query", "key", "value")))
        return Dense(c, dtype=self.dtype, name="output")(y.reshape(b, n, c))


class VisionLayer(Module):
    """Attention and MLP, each pre-normed and residual."""

    config: DPTConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        cfg = self.config
        y = LayerNorm(cfg.epsilon, self.dtype, name="layernorm_before")(x)
        x = x + VisionAttention(cfg.heads, cfg.qkv_bias, self.dtype, name="attention")(
            y
        )
        y = LayerNorm(cfg.epsilon, self.dtype, name="layernorm_after")(x)
        y = Dense(cfg.mlp, dtype=self.dtype, name="intermediate")(y)
        y = ACTIVATIONS[cfg.activation](y)
        return x + Dense(cfg.hidden, dtype=self.dtype, name="output")(y)


class Backbone(Module):
    """The vision transformer: x `[b h w 3]` to the tokens after each of `config.taps`.

    The tokens are `[b 1+n c]`. A hybrid's stem gives maps `[b h w c]` in place of the
    first two.
    """

    config: DPTConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        cfg, size = self.config, self.config.patch
        normal = nn.initializers.normal(0.02)
        readout = self.param("cls_token", normal, (1, 1, cfg.hidden))
        count = 1 + cfg.grid**2
        places = self.param("position_embeddings", normal, (1, count, cfg.hidden))
        taken = []
        if cfg.stem is not None:
            *taken, x = Bit(cfg.stem, self.dtype, name="stem")(x)
            size = 1
        x = conv(cfg.hidden, size, self.dtype, "projection", stride=size, padding=0)(x)
        b, rows, columns, c = x.shape
        grid = places[:, 1:].reshape(1, cfg.grid, cfg.grid, c)
        grid = _bilinear(grid.astype(jnp.float32), rows, columns)
        places = jnp.concatenate([places[:, :1], grid.reshape(1, -1, c)], axis=1)
        readout = jnp.broadcast_to(readout.astype(x.dtype), (b, 1, c))
        x = jnp.concatenate([readout, x.reshape(b, -1, c)], axis=1)
        x = x + places.astype(x.dtype)
        for i in range(cfg.layers):
            if i <= max(cfg.read) or self.is_initializing():
                x = VisionLayer(cfg, self.dtype, name=f"layer_{i}")(x)
            if i in cfg.read:
                taken.append(x)
        if self.is_initializing():  # stored with every checkpoint, read by none here
            LayerNorm(cfg.epsilon, self.dtype, name="layernorm")(x)
        return taken


class Spread(Module):
    """Transposed convolution whose kernel is its stride: each pixel a k x k square."""

    channels: int
    factor: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        k = self.factor
        shape = (k, k, c, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        y = jnp.einsum("bhwi,klio->bhkwlo", x, kernel) + bias
        return y.reshape(b, k * h, k * w, self.channels)


class Reassemble(Module):
    """Tokens `[b 1+n c]` of one tap -> `[b f*rows f*columns fusion]`.

    A stem's maps have their place and size already.
    """

    config: DPTConfig
    tap: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens, rows, columns):
        if self.config.stem is None or self.tap >= STAGES:
            tokens = self._placed(tokens, rows, columns)
        return Conv(
            self.config.fusion,
            (3, 3),
            padding=1,
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(tokens)

    def _placed(self, tokens, rows, columns):
        cfg, factor = self.config, self.config.factors[self.tap]
        x, readout = tokens[:, 1:], tokens[:, :1]
        x = jnp.concatenate([x, jnp.broadcast_to(readout, x.shape)], axis=-1)
        x = Dense(cfg.hidden, dtype=self.dtype, name="readout")(x)
        x = ACTIVATIONS[cfg.activation](x)
        x = x.reshape(x.shape[0], rows, columns, cfg.hidden)
        width = cfg.necks[self.tap]
        x = conv(width, 1, self.dtype, "projection")(x)
        if factor > 1:
            x = Spread(width, int(factor), self.dtype, name="resize")(x)
        elif factor < 1:
            x = conv(width, 3, self.dtype, "resize", stride=round(1 / factor))(x)
        return x


class Residual(Module):
    """A residual block: x + conv(relu(conv(relu(x))))."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        y = conv(c, 3, self.dtype, "convolution1")(nn.relu(x))
        return x + conv(c, 3, self.dtype, "convolution2")(nn.relu(y))


class Fusion(Module):
    """What comes from below, plus a finer map, doubled."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, finer=None):
        h, w, c = x.shape[1:]
        if finer is not None:
            residual = Residual(self.dtype, name="residual_layer1")
            x = x + residual(_bilinear(finer, h, w))
        elif self.is_initializing():  # the coarsest has it in the file, unread
            Residual(self.dtype, name="residual_layer1")(x)
        x = Residual(self.dtype, name="residual_layer2")(x)
        x = resize_aligned(x, 2 * h, 2 * w)
        return conv(c, 1, self.dtype, "projection")(x)


class DPT(Module):
    """The whole network: x `[b h w 3]` in [-1, 1] to disparity or normals, float32.

    disparity `[b h w]`, normals `[b h w 3]`.

    Raises ValueError for sizes that are no multiple of the patch.
    """

    config: DPTConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        cfg = self.config
        rows, columns = (side // cfg.patch for side in x.shape[1:3])
        if (rows * cfg.patch, columns * cfg.patch) != x.shape[1:3]:
            raise ValueError(
                f"an image of {x.shape[1]} x {x.shape[2]} pixels: both must be "
                f"multiples of {cfg.patch}; predict() resizes"
            )
        taken = Backbone(cfg, self.dtype, name="backbone")(x.astype(self.dtype))
        maps = [
            Reassemble(cfg, i, self.dtype, name=f"reassemble_{i}")(y, rows, columns)
            for i, y in enumerate(taken)
        ]
        y = Fusion(self.dtype, name="fusion_0")(maps[-1])
        for i, finer in enumerate(reversed(maps[:-1]), 1):
            y = Fusion(self.dtype, name=f"fusion_{i}")(y, finer)
        y = conv(cfg.fusion // 2, 3, self.dtype, "head_0")(y)
        y = resize_aligned(y, 2 * y.shape[1], 2 * y.shape[2])
        y = nn.relu(conv(32, 3, self.dtype, "head_2")(y))
        y = conv(cfg.outputs, 1, self.dtype, "head_4")(y).astype(jnp.float32)
        if cfg.outputs == 1:
            return nn.relu(y[..., 0])
        return unit(2.0 * jnp.clip(y, 0.0, 1.0) - 1.0)


def unit(v):
    """Returns v / |v| over the last axis; 0 stays 0, with a finite derivative."""
    square = jnp.sum(v**2, axis=-1, keepdims=True)
    return v * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def predict(network: DPT, params, x):
    """Applies a `DPT` to images of any size: resized to the network's own, and back.

    x `[b h w 3]` in [-1, 1] -> disparity `[b h w]` or normals `[b h w 3]`. Going in the
    resize is bilinear, smoothed where it shrinks, as the network was published.
    """
    (b, h, w, c), side = x.shape, network.config.image_size
    x = jax.image.resize(x, (b, side, side, c), "bilinear")
    y = network.apply({"params": params}, x)
    if y.ndim == 3:
        return jax.image.resize(y, (b, h, w), "bilinear")
    return unit(jax.image.resize(y, (b, h, w, 3), "bilinear"))


def normals_from_disparity(
    disparity, focal, *, scale: jax.Array | float = 1.0, shift: jax.Array | float = 0.0
):
    """Returns the unit normals `[h w 3]` of the surface that a disparity draws.

    In camera axes (x right, y down, z forward), turned to the camera, of the surface at
    depth 1 / (scale disparity + shift). disparity `[h w]`; focal `[2]` in pixels, the
    principal point in the middle. A network's disparity is known up to scale and shift
    only: fit them to a rendering first, or the normals are those of a stretched
    surface.
    """
    h, w = disparity.shape
    inverse = jnp.maximum(scale * disparity + shift, 1e-6)
    down = (jnp.arange(h) + 0.5 - h / 2)[:, None] / focal[1]
    across = (jnp.arange(w) + 0.5 - w / 2)[None, :] / focal[0]
    # on a plane 1 / depth = a u + b v + c in (u, v) = (x / z, y / z), and its normal
    # is (a, b, c) up to sign: slopes of disparity, no differences of points
    slope_v, slope_u = jnp.gradient(inverse)
    a, b = slope_u * focal[0], slope_v * focal[1]
    c = inverse - a * across - b * down
    return -unit(jnp.stack([a, b, c], axis=-1))
