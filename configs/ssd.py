"""Stable Score Distillation: mode-disengaging above the timestep M, mode-seeking below.

Paper: Stable Score Distillation for High-Quality 3D Generation (arXiv 2312.09305), alg.
1. M (`estimator.threshold`) is not stated there and is the decisive setting.
Cost: `:toybox` about 2 minutes on 2 CPU cores, `:image` half a minute; `:sd21` wants an
accelerator and has only been run on small random weights; it optimises Gaussians where
the paper has a NeRF (a later room).
Command: python -m sdsjax.main --config=configs/ssd.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, image_2d, stable_diffusion_21
from sdsjax.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64, minutes on a CPU."""
    config = base_config()
    config.estimator = ConfigDict({"name": "ssd", "weighting": "sigma2"})
    config.estimator.threshold = 500.0
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at the paper's settings; needs weights and a GPU."""
    return stable_diffusion_21(toybox())


def image() -> Config:
    """One 2D picture optimised directly on toybox-sd: the first debugging tool."""
    return image_2d(toybox())


VARIANTS = {"toybox": toybox, "sd21": sd21, "image": image}


def get_config(variant: str = "toybox") -> Config:
    return VARIANTS[variant]()
