"""LPIPS: how different two pictures look, by the features of a trained network.

Notation: rgb `[b h w 3]` in [0, 1]; F_l `[b h_l w_l c_l]` the l-th of five feature maps
of a picture x, behind a ReLU; f_l = F_l / (|F_l| + 1e-10) along the channels; w_l
`[c_l]` the weights of a linear head.

    d(x, y) = sum_l mean_hw sum_c w_l (f_l(x) - f_l(y))^2

Colours enter as (2 rgb - 1 - SHIFT) / SCALE. 0 for equal pictures; no upper bound, and
values of different networks ("alex", "vgg") are not comparable.

Source: R. Zhang et al. 2018 (arXiv 1801.03924), eq. 1, version 0.1 of its weights; the
layers are those of torchvision's AlexNet (arXiv 1404.5997) and VGG-16 (arXiv
1409.1556). Its third network, SqueezeNet, is not here.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax.models.parameters import Conv, Module

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
SMALLEST = 64  # px a side: what the heads were calibrated on, the least that is taken


class Convolution(NamedTuple):
    """A convolution and the ReLU behind it.

    index: its number among torchvision's `features`; padding on every side, in pixels.
    """

    index: int
    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


class Stage(NamedTuple):
    """Convolutions up to a feature map that is compared, and the pooling before them.

    pool: (window, stride) of the maximum, None: there is none.
    """

    pool: tuple[int, int] | None
    convolutions: tuple[Convolution, ...]


def _vgg() -> tuple[Stage, ...]:
    stages, index = [], 0
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        numbers = range(index, index + 2 * count, 2)  # a ReLU stands between
        convolutions = tuple(Convolution(number, width) for number in numbers)
        stages.append(Stage((2, 2) if stages else None, convolutions))
        index += 2 * count + 1  # and the pooling
    return tuple(stages)


NETWORKS = {
    "alex": (
        Stage(None, (Convolution(0, 64, 11, 4, 2),)),
        Stage((3, 2), (Convolution(3, 192, 5, 1, 2),)),
        Stage((3, 2), (Convolution(6, 384),)),
        Stage(None, (Convolution(8, 256),)),
        Stage(None, (Convolution(10, 256),)),
    ),
    "vgg": _vgg(),
}


class LPIPS(Module):
    """The distance of pictures a, b `[b h w 3]` in [0, 1], as `[b]` float32.

    network: a name of NETWORKS. Parameters: features_N (kernel, bias) and head_L `[c]`.
    """

    network: str

    @nn.compact
    def __call__(self, a, b):
        if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
            raise ValueError(f"images {a.shape} and {b.shape}: expected two [b h w 3]")
        if min(a.shape[1:3]) < SMALLEST:
            raise ValueError(f"images {a.shape}: at least {SMALLEST} pixels a side")
        shift, scale = jnp.asarray(SHIFT), jnp.asarray(SCALE)
        pictures = jnp.concatenate([a, b]).astype(jnp.float32)
        x, total = (2.0 * pictures - 1.0 - shift) / scale, jnp.zeros(len(a))
        for number, stage in enumerate(NETWORKS[self.network]):
            if stage.pool is not None:
                window, stride = stage.pool
                x = nn.max_pool(x, (window, window), (stride, stride))
            for one in stage.convolutions:
                x = nn.relu(self._convolution(one)(x))
            head = self.param(f"head_{number}", nn.initializers.ones, (x.shape[-1],))
            first, second = jnp.split(_unit(x), 2)
            squares = jnp.mean((first - second) ** 2, axis=(1, 2))
            # a product and a sum: a matrix product would be rounded on some devices
            total = total + jnp.sum(squares * head, axis=-1)
        return total

    def _convolution(self, one: Convolution) -> Conv:
        return Conv(
            one.features,
            (one.kernel, one.kernel),
            (one.stride, one.stride),
            padding=one.padding,
            precision=jax.lax.Precision.HIGHEST,
            name=f"features_{one.index}",
        )


def _unit(x):
    length = jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))
    return x / (length + 1e-10)
