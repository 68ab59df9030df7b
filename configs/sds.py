"""Score Distillation Sampling: the guided noise prediction minus the noise added.

Paper: DreamFusion (arXiv 2209.14988), eq. 3; its omega is `guidance_scale` - 1.
Cost: `:mv`, `:toybox`, `:flow` about 2 minutes on 2 CPU cores, `:image` half of one;
`:sd21`, `:sdxl`, `:sd3`, `:if64` want an accelerator and have only been run on small
random weights; they optimise Gaussians where the paper has a NeRF (nerf.py).
Command: python -m sdsjax.main --config=configs/sds.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import (
    base_config,
    choice,
    deepfloyd,
    exact_of,
    image_of,
    mv_of,
    sd21_of,
)
from configs.networks import flow_of, sd3_of, sdxl_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on the embedded toybox-sd prior, 64x64."""
    config = base_config()
    config.estimator = ConfigDict({"name": "sds", "weighting": "sigma2"})
    config.estimator.guidance_scale = 7.5
    return config


def if64() -> Config:
    """DeepFloyd IF-I-XL in pixels, scale 20; gated, non-commercial weights, a GPU."""
    config = deepfloyd(toybox())
    config.estimator.guidance_scale = 20.0
    return config


sd21 = sd21_of(toybox, guidance_scale=100.0)
VARIANTS = {
    "mv": mv_of(toybox),
    "toybox": toybox,
    "flow": flow_of(toybox),
    "sd21": sd21,
    "sdxl": sdxl_of(sd21),
    "sd3": sd3_of(sd21),
    "if64": if64,
    "exact": exact_of(toybox),
    "image": image_of(toybox),
}
get_config = choice(VARIANTS)
