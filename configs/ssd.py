"""Stable Score Distillation: mode-disengaging above the timestep M, mode-seeking below.

Paper: Stable Score Distillation for High-Quality 3D Generation (arXiv 2312.09305), alg.
1. M (`estimator.threshold`) is not stated there and is the decisive setting.
`:nerf` is the paper's own kind of run (sec. 5) at the size of the toybox, `:nerf_sd21`
at its full size; `:mv`, the default, `:toybox` and `:sd21` optimise Gaussians.
Cost: `:mv`, `:toybox`, `:flow` about 2 minutes on 2 CPU cores, `:image` half of one;
`:sd21` and `:nerf_sd21`, at the paper's settings, `:sdxl` and `:sd3` want an
accelerator and have only been run on small random weights.
Command: python -m sdsjax.main --config=configs/ssd.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs import nerf as fields
from configs.base import base_config, choice, exact_of, image_of, mv_of, sd21_of
from configs.networks import flow_of, sd3_of, sdxl_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "ssd", "weighting": "sigma2"})
    config.estimator.threshold = 500.0
    return config


def nerf() -> Config:
    """SSD's NeRF in small: a progressive band, 4 views of 32x32, then one of 64x64."""
    config = fields.small_field(toybox())
    config.steps = 300
    config.batch_size = 1
    # the paper's shares: the first third coarse and at any t, then t up to 500
    config.camera.update(first_steps=100, first_resolution=32, first_batch_size=4)
    config.timesteps = ConfigDict({"name": "two_phase"})
    config.timesteps.update(t_min=20, t_max=980, t_end=500, switch=1 / 3)
    field = config.representation
    field.update(band_first=4, band_start=40, band_every=20, ramp_steps=100)
    # the paper's 1000 stands beside gradients of Stable Diffusion's size
    config.losses.orientation = 10.0
    return config


def nerf_sd21() -> Config:
    """SSD's NeRF on Stable Diffusion 2.1-base, 15 000 steps; weights and a GPU."""
    config = fields.sd21()
    config.estimator = ConfigDict({"name": "ssd", "weighting": "sigma2"})
    config.estimator.threshold = 500.0
    return config


VARIANTS = {
    "mv": mv_of(toybox),
    "toybox": toybox,
    "flow": flow_of(toybox),
    "sd21": sd21_of(toybox),
    "sdxl": sdxl_of(sd21_of(toybox)),
    "sd3": sd3_of(sd21_of(toybox)),
    "nerf": nerf,
    "nerf_sd21": nerf_sd21,
    "exact": exact_of(toybox),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
