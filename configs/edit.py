"""Editing: a finished asset becomes what another prompt says, and stays itself.

DDS (arXiv 2304.07090) by default, PDS (arXiv 2311.13831) as `:pds`: both compare every
view with the same view of the source asset, so that what the two prompts share stays.
`:nerf` edits a run of configs/nerf.py, `:image` a picture of the `:image` variants;
both take `--config.estimator.name=pds` too.
Cost: about two minutes on 2 CPU cores, `:pds` three to four.
Command: python -m sdsjax.main --config=edit --config.edit.path=runs/ssd-a-red-mug-0
    --config.prompt="a blue mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, image_2d, multiview
from configs.nerf import small_field
from sdsjax.training.config import Config


def dds() -> Config:
    """Delta Denoising Score on toybox-mv, from a finished run or a splats.ply."""
    config = multiview(base_config())
    config.prompt = "a blue mug"
    config.steps = 300
    config.background = "white"  # source and target are compared before one background
    config.estimator = ConfigDict({"name": "dds", "weighting": "sigma2"})
    # on toybox-mv 18.0 dB against the target's truth; 7.5, the paper's, 16.6
    config.estimator.guidance_scale = 3.0
    config.timesteps = ConfigDict({"name": "uniform"})
    config.timesteps.update(t_min=20, t_max=980)
    # it is a mug already: what is learnt is mostly its colours
    config.optimizer.lr.update(
        means=0.002, log_scales=0.002, quats=0.002, opacity_logits=0.01, sh=0.02
    )
    return config


def pds() -> Config:
    """Posterior Distillation Sampling: also a pull of every view towards the source."""
    config = dds()
    config.estimator = ConfigDict({"name": "pds", "weighting": "one"})
    config.estimator.guidance_scale = 20.0  # 17.0 dB; 100, the paper's, 16.9
    return config


def nerf() -> Config:
    """DDS on a field, from a finished run of configs/nerf.py."""
    config = small_field(dds())
    config.steps = 150
    config.resolution = 32
    # a tenth of what the field was trained at: its shape is there already
    config.optimizer.lr.update(tables=0.002, density=0.0005, color=0.002)
    return config


def image() -> Config:
    """DDS on one picture, as it was published, from a run of an `:image` variant."""
    config = dds()
    config.prior.name, config.prior.folder = "stable_diffusion", "toybox-sd"
    return image_2d(config)


VARIANTS = {"dds": dds, "pds": pds, "nerf": nerf, "image": image}
get_config = choice(VARIANTS)
