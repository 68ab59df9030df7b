"""Stein Score Distillation: e_s + mu (eps phi - sigma grad phi), mu learnt.

Paper: SteinDreamer (arXiv 2401.00604), eqs. 7-11, the control variate corrected.
Cost: phi = -1 and mu fitted in z cost nothing beside sds. `estimator.baseline`="depth"
or "normal" adds a decoder and a monocular network, forward and backward, and needs
`prior.depth_folder` (on the toybox: toybox-dpt); normals are drawn from its disparity
unless `prior.normals_folder` (toybox-normals) names a network of their own;
`estimator.fit_space`="theta" costs two pullbacks a step.
`:sd21`, `:sd3` want an accelerator and have not been run at full size.
Command: python -m sdsjax.main --config=configs/stein.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, sd21_of
from configs.networks import sd3_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "stein"})
    config.estimator.guidance_scale = 7.5
    config.estimator.baseline = "constant"
    config.estimator.fit = "scalar"
    return config


VARIANTS = {
    "toybox": toybox,
    "sd21": sd21_of(toybox, guidance_scale=100.0),
    "sd3": sd3_of(sd21_of(toybox, guidance_scale=100.0)),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
