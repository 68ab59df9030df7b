"""GSGen's Gaussians: few, small and nearly opaque from the start, densified late.

Paper: Text-to-3D using Gaussian Splatting (arXiv 2309.16585), with its code's settings:
SDS, 4096 Gaussians of scale 0.02 at opacity 0.8, densified from step 2000 on, every 500
to 1000 steps, where the screen gradient is above 0.02. It begins from Point-E's points:
pass yours with --config.representation.init=points.ply.
Cost: two network calls a view, as sds. `:sd21` wants an accelerator and has not been
run on real weights.
Command: python -m sdsjax.main --config=configs/gsgen.py
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, mv_of, stable_diffusion_21
from sdsjax.training.config import Config


def toybox() -> Config:
    """On the embedded toybox-sd: half as many, larger ones, its schedule shortened."""
    config = base_config()
    config.estimator = ConfigDict({"name": "sds", "weighting": "sigma2"})
    config.estimator.guidance_scale = 7.5
    gaussians = config.representation
    gaussians.update(count=3000, init_count=2000, init_scale=0.03, init_opacity=0.8)
    gaussians.control = "3dgs"
    gaussians.update(control_every=50, control_start=200, control_stop=500)
    # screen gradients follow the size of the latents and of w(t): for toybox-sd
    gaussians.update(control_threshold=2.0, control_clone_scale=0.03)
    gaussians.update(control_prune=0.05, control_reset_every=0)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at the paper's settings; needs weights and a GPU."""
    config = stable_diffusion_21(toybox())
    config.estimator.guidance_scale = 100.0
    gaussians = config.representation
    gaussians.update(count=100_000, init_count=4096, init_scale=0.02)
    gaussians.update(control_every=500, control_start=2000, control_stop=10_000)
    gaussians.update(control_threshold=0.02, control_clone_scale=0.01)
    return config


VARIANTS = {"toybox": toybox, "mv": mv_of(toybox), "sd21": sd21}
get_config = choice(VARIANTS)
