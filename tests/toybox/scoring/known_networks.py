"""Networks whose answers are known in closed form, and renders that say what they are.

Not a test; those of sampling and of measuring share it. A caption is a number: its
length is its token and its text state.
"""

import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.world.objects import COLORS

SIDE = 4
SCHEDULE = NoiseSchedule.scaled_linear()


class Apply:
    """Stands for a linen module: `apply` is a function of all but its variables."""

    def __init__(self, function):
        self._function = function

    def apply(self, variables, *inputs, **how):
        return self._function(*inputs, **how)


class Sizes:
    """What is read of the configs of a UNet and of a VAE that changes no size."""

    sample_size, in_channels, scaling_factor, rays = SIDE, 2, 1.0, True

    def from_latents(self, z):
        return z


Sizes.unet = Sizes


def shown(z, method):
    """A VAE whose pictures are the first channel, and whose latents are the picture."""
    if method == "encode":
        return z, None
    return jnp.repeat(z[..., :1], 3, axis=-1)


def lengths(texts):
    return np.array([[len(text)] for text in texts])


def networks(unet, prediction_type="epsilon", vae=shown):
    """A prior of which only the UNet matters."""
    config = Sizes()
    return hub.StableDiffusion(
        hub.Network(Apply(unet), {}, config),
        hub.Network(Apply(vae), {}, config),
        hub.Network(Apply(lambda ids: ids[..., None] * 1.0), {}, config),
        lengths,
        SCHEDULE,
        prediction_type,
    )


def at(values, t, like):
    """A schedule's values at times [b], to be multiplied with [b ...]."""
    return values[t].reshape(-1, *(1,) * (like.ndim - 1))


def noise_of_point(z_t, t, point, prediction_type="epsilon"):
    """What a network says that knows that every z is `point`."""
    alpha, sigma = at(SCHEDULE.alphas, t, z_t), at(SCHEDULE.sigmas, t, z_t)
    eps = (z_t - alpha * point) / sigma
    return alpha * eps - sigma * point if prediction_type == "v_prediction" else eps


def readable_pool(geometry, view, orbit=None):
    """A pool whose pictures say in their first row what they show (`read`)."""
    geometry, view = np.asarray(geometry, np.int32), np.asarray(view)
    layers = np.zeros((len(geometry), SIDE, SIDE, 6), np.uint8)
    layers[..., 5] = 255
    layers[:, 0, 0, 0], layers[:, 0, 3, 0] = geometry, view
    layers[:, 0, 1, 3] = layers[:, 0, 2, 4] = 255
    return pools.Pool(layers, geometry, view, orbit=orbit)


def read(x):
    """(geometry, first colour, second colour, view) of pictures of a readable pool."""
    rgb = 0.5 + 0.5 * np.asarray(x)
    colours = np.asarray(list(COLORS.values()))

    def nearest(pixel):
        return np.abs(pixel[:, None] - colours).sum(-1).argmin(1)

    geometry, view = (np.round(255 * rgb[:, 0, i, 0]).astype(int) for i in (0, 3))
    return geometry, nearest(rgb[:, 0, 1]), nearest(rgb[:, 0, 2]), view
