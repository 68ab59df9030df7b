"""Classifier Score Distillation: e_y - e_0, in time against a negative prompt.

Paper: Yu et al., Text-to-3D with Classifier Score Distillation (arXiv 2310.19415),
sec. 4; a (`estimator.negative`) is the negative prompt's weight, -1 - a that of none.
Cost: that of sds; half as much again with a negative prompt.
`:sd21`, `:sdxl`, `:sd3` want an accelerator and have not been run at full size.
Command: python -m sdsjax.main --config=configs/csd.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, stable_diffusion_21
from configs.networks import sd3_of, sdxl_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "csd"})
    config.estimator.negative = 0.0
    config.estimator.negative_end = 0.0
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base; a falls from 0 to -1 over 5 000 steps."""
    config = stable_diffusion_21(toybox())
    config.negative_prompt = "blurry, low quality, deformed"
    config.estimator.negative_end = -1.0
    config.estimator.anneal_steps = 5000
    return config


VARIANTS = {
    "toybox": toybox,
    "sd21": sd21,
    "sdxl": sdxl_of(sd21),
    "sd3": sd3_of(sd21),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
