"""SDS as an L2 loss to the denoised latent.

Paper: StableDreamer (arXiv 2312.02189). At weighting "sigma_alpha" it is sds at
"sigma2".
Cost: that of sds, times `estimator.steps`.
`:sd21`, `:sd3` want an accelerator and have not been run at full size.
Command: python -m sdsjax.main --config=denoised_l2 --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, sd21_of
from configs.networks import sd3_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "denoised_l2"})
    config.estimator.update(guidance_scale=7.5, weighting="sigma_alpha", steps=1)
    return config


VARIANTS = {
    "toybox": toybox,
    "sd21": sd21_of(toybox, guidance_scale=100.0),
    "sd3": sd3_of(sd21_of(toybox, guidance_scale=100.0)),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
