"""Interval Score Matching: e_s(z_t) - e_0(z_u) along DDIM inversion.

Paper: LucidDreamer (arXiv 2311.11284), eqs. 10-17; its delta falls from 100 to 80.
Cost: five calls of e_0 to reach z_u, one at z_u, two at z_t: about four times sds.
`:sd21`, `:sdxl`, `:sd3` want an accelerator and have not been run at full size; they
have one view a step where LucidDreamer has four.
Command: python -m sdsjax.main --config=configs/ism.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, sd21_of
from configs.networks import sd3_of, sdxl_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "ism"})
    config.estimator.update(guidance_scale=7.5, weighting="sigma_over_alpha")
    config.estimator.update(delta=80, steps=5, stride=200)
    return config


VARIANTS = {
    "toybox": toybox,
    "sd21": sd21_of(toybox),
    "sdxl": sdxl_of(sd21_of(toybox)),
    "sd3": sd3_of(sd21_of(toybox)),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
