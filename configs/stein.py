"""Stein Score Distillation: e_s + mu (eps phi - sigma grad phi), mu learnt.

Paper: SteinDreamer (arXiv 2401.00604), eqs. 7-11, the control variate corrected.
Cost: phi = -1 and mu fitted in z cost nothing beside sds. `estimator.baseline`="depth"
or "normal" adds a decoder and a monocular network, forward and backward, and needs
`prior.depth_folder`; `estimator.fit_space`="theta" two pullbacks a step.
`:sd21` wants an accelerator and has not been run at full size.
Command: python -m sdsjax.main --config=configs/stein.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, image_2d, stable_diffusion_21
from sdsjax.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64, minutes on a CPU."""
    config = base_config()
    config.estimator = ConfigDict({"name": "stein"})
    config.estimator.guidance_scale = 20.0
    config.estimator.baseline = "constant"
    config.estimator.fit = "scalar"
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
