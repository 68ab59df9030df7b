"""SDS+: L2 to the latent and to the image after four denoising steps.

Paper: HiFA (arXiv 2305.18766), eqs. 2-5 and alg. 1, on Gaussians where the paper has a
NeRF; lambda_rgb .1 for rgb in [0, 1] is .025 for x in [-1, 1].
Cost: four pairs of network calls and one decoding a view: about four times sds.
`:sd21`, `:sd3` want an accelerator and have not been run at full size.
Command: python -m sdsjax.main --config=configs/sds_plus.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_of, stable_diffusion_21
from configs.networks import sd3_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "sds_plus"})
    config.estimator.update(guidance_scale=20.0, weighting="sigma_alpha")
    config.estimator.update(steps=4, stride=250, eta=1.0, lambda_rgb=0.025)
    config.timesteps = ConfigDict({"name": "sqrt", "t_min": 300, "t_max": 980})
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at HiFA's settings; needs weights and a GPU."""
    config = stable_diffusion_21(toybox())
    config.timesteps = ConfigDict({"name": "sqrt", "t_min": 300, "t_max": 980})
    config.estimator.guidance_scale = 100.0
    return config


VARIANTS = {
    "toybox": toybox,
    "sd21": sd21,
    "sd3": sd3_of(sd21),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
