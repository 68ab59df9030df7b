"""Noise-Free Score Distillation: e_0 - e_neg (e_0 below t = 200) + s (e_y - e_0).

Paper: Katzir et al., Noise-Free Score Distillation (arXiv 2310.17590), eqs. 6-9.
Cost: one and a half times that of sds: three branches. Every word of the toybox names a
good picture; naming another object as negative prompt would push away from it, which h
does already. So there is none, e_neg is e_0, and from t = 200 on only s h is left
(experiments/league has a prior that knows blurred pictures). `:sd21`, `:sdxl`,
`:sd3` want an accelerator and have not been run at full size.
Command: python -m sdsjax.main --config=configs/nfsd.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, stable_diffusion_21
from configs.networks import sd3_of, sdxl_of
from sdsjax.training.config import Config


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


VARIANTS = {
    "toybox": toybox,
    "sd21": sd21,
    "sdxl": sdxl_of(sd21),
    "sd3": sd3_of(sd21),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
