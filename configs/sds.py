"""Score Distillation Sampling: the guided noise prediction minus the noise added.

Paper: DreamFusion (arXiv 2209.14988), eq. 3; its omega is `guidance_scale` - 1.
Cost: `:toybox` about 2 minutes on 2 CPU cores, `:image` half a minute; `:sd21` and
`:if64` want an accelerator and have only been run on small random weights; they
optimise Gaussians where the paper has a NeRF (a later room).
Command: python -m sdsjax.main --config=configs/sds.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, deepfloyd, image_2d, stable_diffusion_21
from sdsjax.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64, minutes on a CPU."""
    config = base_config()
    config.estimator = ConfigDict({"name": "sds", "weighting": "sigma2"})
    config.estimator.guidance_scale = 20.0
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at the usual scale of 100; needs weights, a GPU."""
    config = stable_diffusion_21(toybox())
    config.estimator.guidance_scale = 100.0
    return config


def if64() -> Config:
    """DeepFloyd IF-I-XL in pixels, scale 20; gated, non-commercial weights, a GPU."""
    config = deepfloyd(toybox())
    config.estimator.guidance_scale = 20.0
    return config


def image() -> Config:
    """One 2D picture optimised directly on toybox-sd: the first debugging tool."""
    return image_2d(toybox())


VARIANTS = {"toybox": toybox, "sd21": sd21, "if64": if64, "image": image}


def get_config(variant: str = "toybox") -> Config:
    return VARIANTS[variant]()
