"""Score Distillation via Inversion: SDS with DDIM-inverted noise.

Paper: Lukoianov et al., Score Distillation via Reparametrized DDIM (arXiv 2405.15891).
Cost: ten pairs of network calls to invert and one to estimate: eleven times sds.
`:sd21` wants an accelerator and has not been run at full size.
Command: python -m sdsjax.main --config=configs/sdi.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, image_2d, stable_diffusion_21
from sdsjax.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64, minutes on a CPU."""
    config = base_config()
    config.estimator = ConfigDict({"name": "sdi"})
    config.estimator.update(guidance_scale=7.5, inversion_scale=-7.5, steps=10, eta=0.3)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at the authors' scales; needs weights and a GPU."""
    return stable_diffusion_21(toybox())


def image() -> Config:
    """One 2D picture optimised directly on toybox-sd: the first debugging tool."""
    return image_2d(toybox())


VARIANTS = {"toybox": toybox, "sd21": sd21, "image": image}


def get_config(variant: str = "toybox") -> Config:
    return VARIANTS[variant]()
