"""Variational Score Distillation: e_s - e_psi, psi trained on the renderings.

Paper: ProlificDreamer (arXiv 2305.16213), eq. 9 and alg. 1; one particle,
or several that share psi with --config.particles=4, whose steps they take in turns.
Cost: a call of the second network beside the two of sds, and a forward and backward
pass a view to train it: about twice sds. `prior.adapter_folder` names another second
network (the paper: 2.1-v beside 2.1-base). `:sd21`, `:sdxl`, `:sd3` want an accelerator
and have not been run at full size. `:image` has no camera, and neither has its second
network.
Command: python -m sdsjax.main --config=configs/vsd.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_2d, mv_of, sd21_of
from configs.networks import sd3_of, sdxl_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "vsd"})
    config.estimator.guidance_scale = 7.5
    config.estimator.adapter_lr = 1e-4
    config.estimator.drop_camera = 0.1
    return config


def image() -> Config:
    """One 2D picture optimised directly on toybox-sd: no camera anywhere."""
    config = image_2d(toybox())
    config.estimator.drop_camera = 1.0
    return config


VARIANTS = {
    "toybox": toybox,
    "mv": mv_of(toybox),
    "sd21": sd21_of(toybox),
    "sdxl": sdxl_of(sd21_of(toybox)),
    "sd3": sd3_of(sd21_of(toybox)),
    "image": image,
}
get_config = choice(VARIANTS)
