"""Inputs that each kind of denoiser can be called on, for its parameters' shapes."""

from typing import Any

import numpy as np

from sdsjax.models.mmdit import MMDiTConfig, Text
from sdsjax.models.unets.deepfloyd import IFUNetConfig
from sdsjax.models.unets.multiview import RAY_CHANNELS, MultiViewConfig
from sdsjax.models.unets.sdxl import SIZES, SDXLConfig, TextAndSize


def dummy_inputs(config):
    """Returns zeros, as small as the network of a config takes them, batch 1.

    In numpy: they are asked for their shapes alone.
    """
    if isinstance(config, MultiViewConfig):
        return _multiview_inputs(config)
    if isinstance(config, MMDiTConfig):
        z = _zeros((1, config.patch, config.patch, config.in_channels))
        told = _zeros((1, 2, config.context)), _zeros((1, config.pooled))
        return z, _zeros((1,)), Text(*told)
    if isinstance(config, SDXLConfig):
        z, t, text = _plain_inputs(config.unet)
        told = _zeros((1, config.pooled)), _zeros((1, SIZES))
        return z, t, TextAndSize(text, *told)
    return _plain_inputs(config)


def _multiview_inputs(config: MultiViewConfig):
    _, t, text = _plain_inputs(config.unet)
    view = (1, 1, *2 * (config.unet.sample_size,))  # the code map is of one size
    rays = _zeros((*view, RAY_CHANNELS)) if config.rays else None
    z, camera = _zeros((*view, config.unet.in_channels)), _zeros((1, 1, 16))
    return z, t, text, camera, rays


def _plain_inputs(config):
    side = 2 ** (len(config.channels) - 1)
    width = config.text_width if isinstance(config, IFUNetConfig) else config.context
    sample = _zeros((1, side, side, config.in_channels))
    return sample, np.zeros((1,), np.int32), _zeros((1, 2, width))


def _zeros(shape: tuple[int, ...]) -> Any:
    # of numpy, where networks say jax.Array
    return np.zeros(shape, np.float32)
