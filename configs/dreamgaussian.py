"""DreamGaussian's Gaussians: many small ones in a ball, densified often and early.

Paper: DreamGaussian (arXiv 2309.16653), stage 1, with its code's settings: SDS, t that
falls over the run, 5000 Gaussians in a ball of radius 0.5 at opacity 0.1, densify every
50 steps, prune below 0.01, black or white background.
Cost: two network calls a view, as sds; `:toybox` has 500 steps instead of 600. `:sd21`,
`:sdxl`, `:sd3` want an accelerator and have not been run on real weights.
Command: python -m sdsjax.main --config=configs/dreamgaussian.py
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, mv_of, stable_diffusion_21
from configs.networks import sd3_of, sdxl_of
from sdsjax.training.config import Config


def toybox() -> Config:
    """On the embedded toybox-sd: half as many Gaussians, learning rates of base.py."""
    config = base_config()
    config.steps = 500
    config.background = "white"
    config.estimator = ConfigDict({"name": "sds", "weighting": "sigma2"})
    config.estimator.guidance_scale = 7.5
    gaussians = config.representation
    gaussians.update(count=4000, init_count=2500, init_radius=0.5, init_opacity=0.1)
    gaussians.control = "3dgs"
    gaussians.update(control_every=50, control_start=100, control_stop=400)
    # screen gradients follow the size of the latents and of w(t): for toybox-sd
    gaussians.update(control_threshold=2.0, control_clone_scale=0.03)
    gaussians.update(control_prune=0.01, control_reset_every=0)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at the paper's settings; needs weights and a GPU."""
    config = stable_diffusion_21(toybox())
    config.steps = 500
    config.camera.first_steps = 150
    config.camera.first_resolution = 128
    config.camera.first_batch_size = 1
    config.estimator.guidance_scale = 100.0
    config.timesteps = ConfigDict({"name": "annealed_window"})
    config.timesteps.update(t_min=20, t_max=980, t_end=20)
    gaussians = config.representation
    gaussians.update(count=50_000, init_count=5000)
    gaussians.update(control_threshold=0.01, control_clone_scale=0.01)
    lr = config.optimizer.lr
    lr.update(means=0.001, log_scales=0.005, quats=0.005, opacity_logits=0.05, sh=0.01)
    config.optimizer.lr_final_factor = 0.02
    return config


VARIANTS = {
    "toybox": toybox,
    "mv": mv_of(toybox),
    "sd21": sd21,
    "sdxl": sdxl_of(sd21),
    "sd3": sd3_of(sd21),
}
get_config = choice(VARIANTS)
