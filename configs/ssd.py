"""Stable Score Distillation: mode-disengaging above the timestep M, mode-seeking below.

Paper: Stable Score Distillation for High-Quality 3D Generation (arXiv 2312.09305), alg.
1. M (`estimator.threshold`) is not stated there and is the decisive setting.
Cost: `:toybox` about 2 minutes on 2 CPU cores, `:image` half a minute; `:sd21`, at
the paper's settings, wants an accelerator and has only been run on small random
weights; it optimises Gaussians where the paper has a NeRF (nerf.py).
Command: python -m sdsjax.main --config=configs/ssd.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, sd21_of
from sdsjax.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "ssd", "weighting": "sigma2"})
    config.estimator.threshold = 500.0
    return config


VARIANTS = {"toybox": toybox, "sd21": sd21_of(toybox), "image": image_of(toybox)}
get_config = choice(VARIANTS)
