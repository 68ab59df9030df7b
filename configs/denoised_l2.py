"""SDS as an L2 loss to the denoised latent.

Paper: StableDreamer (arXiv 2312.02189). At weighting "sigma_alpha" it is sds at
"sigma2".
Cost: that of sds, times `estimator.steps`.
`:sd21` wants an accelerator and has not been run at full size.
Command: python -m sdsjax.main --config=denoised_l2 --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, image_2d, stable_diffusion_21
from sdsjax.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64, minutes on a CPU."""
    config = base_config()
    config.estimator = ConfigDict({"name": "denoised_l2"})
    config.estimator.update(guidance_scale=20.0, weighting="sigma_alpha", steps=1)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at the usual scale of 100; needs weights, a GPU."""
    config = stable_diffusion_21(toybox())
    config.estimator.guidance_scale = 100.0
    return config


def image() -> Config:
    """One 2D picture optimised directly on toybox-sd: the first debugging tool."""
    return image_2d(toybox())


VARIANTS = {"toybox": toybox, "sd21": sd21, "image": image}


def get_config(variant: str = "toybox") -> Config:
    return VARIANTS[variant]()
