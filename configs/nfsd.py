"""Noise-Free Score Distillation: e_0 - e_neg (e_0 below t = 200) + s (e_y - e_0).

Paper: Katzir et al., Noise-Free Score Distillation (arXiv 2310.17590), eqs. 6-9.
Cost: one and a half times that of sds: three branches. The toybox has no words for a
poor image, so that its e_neg is e_0. `:sd21` wants an accelerator and has not been run
at full size.
Command: python -m sdsjax.main --config=configs/nfsd.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, stable_diffusion_21
from sdsjax.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "nfsd"})
    config.estimator.guidance_scale = 7.5
    config.estimator.switch_time = 200
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base with a prompt that describes poor images."""
    config = stable_diffusion_21(toybox())
    config.negative_prompt = "unrealistic, blurry, low quality, oversaturated"
    return config


VARIANTS = {"toybox": toybox, "sd21": sd21, "image": image_of(toybox)}
get_config = choice(VARIANTS)
