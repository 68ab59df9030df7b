"""MVDream: four views of one object, seen together by a prior that knows the cameras.

Paper: MVDream (arXiv 2308.16512), with its code's settings: a loss on the
reconstruction, that is, the L2 form at weight 1; guidance 50 away from a negative
prompt, rescaled by a half; t in a window whose two ends fall over the first 80% of the
run; 8 views of 64x64, then 4 of 256x256; a field and no regulariser. Not as there: 128
points a ray for 512 beside an occupancy grid, Adam without decay of weights, and no
soft shading.
Cost: two network calls a view, as sds. `:sd21` wants an accelerator and has not been
run on real weights. Training captions ended in ", 3d asset": prompts for it should too.
Command: python -m sdsjax.main --config=configs/mvdream.py
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, multiview, stable_diffusion_21
from configs.nerf import large_field
from sdsjax.training.config import Config

NEGATIVE = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, "
    "dull, and unclear, cropped, lowres, low quality, artifacts, duplicate, morbid, "
    "mutilated, poorly drawn face, deformed, dehydrated, bad proportions"
)


def toybox() -> Config:
    """Gaussians on the embedded toybox-mv: 8 views of 32x32, then 4 of 64x64."""
    config = multiview(base_config())
    config.camera.update(first_steps=300, first_resolution=32, first_batch_size=8)
    config.estimator = ConfigDict({"name": "denoised_l2", "weighting": "one"})
    config.estimator.update(guidance_scale=7.5, guidance_rescale=0.5)
    config.timesteps = ConfigDict({"name": "falling_window"})
    config.timesteps.update(t_min=20, t_max=980, t_end=500, until=0.8)
    return config


def sd21() -> Config:
    """MVDream's weights on Stable Diffusion 2.1 at its authors' settings; a GPU."""
    config = large_field(stable_diffusion_21(toybox()))
    config.prompt = "an astronaut riding a horse, 3d asset"
    config.negative_prompt = NEGATIVE
    config.steps = 10_000
    config.batch_size = 4
    config.resolution = 256
    config.prior.folder = "ashawkey/mvdream-sd2.1-diffusers"
    config.estimator.update(guidance_scale=50.0, away_from="negative")
    config.timesteps = ConfigDict({"name": "falling_window"})
    config.timesteps.update(t_min=20, t_max=980, t_end=500, until=0.8)
    camera = config.camera
    camera.update(first_steps=5000, first_resolution=64, first_batch_size=8)
    camera.update(elevation=(0.0, 30.0), fov=(15.0, 60.0), overhead_fraction=0.0)
    camera.update(distance=(0.8, 1.0), relative_distance=True)
    config.representation.background_degree = 2
    config.optimizer.lr_final_factor = 1.0
    return config


VARIANTS = {"toybox": toybox, "sd21": sd21}
get_config = choice(VARIANTS)
