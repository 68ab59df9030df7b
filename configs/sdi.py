"""Score Distillation via Inversion: SDS with DDIM-inverted noise.

Paper: Lukoianov et al., Score Distillation via Reparametrized DDIM (arXiv 2405.15891).
Cost: ten pairs of network calls to invert and one to estimate: eleven times sds.
`:sd21`, `:sd3` want an accelerator and have not been run at full size.
Command: python -m sdsjax.main --config=configs/sdi.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, sd21_of
from configs.networks import sd3_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "sdi"})
    config.estimator.update(guidance_scale=7.5, inversion_scale=-7.5, steps=10, eta=0.3)
    return config


VARIANTS = {
    "toybox": toybox,
    "sd21": sd21_of(toybox),
    "sd3": sd3_of(sd21_of(toybox)),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
