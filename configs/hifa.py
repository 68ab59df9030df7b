"""HiFA: one stage on a hash-grid field, distilled in latent and image space at once.

Paper: HiFA (arXiv 2305.18766): SDS+ (eqs. 2-5, alg. 1), t falling by the square root of
the step, z-variance (eqs. 7-8), smoothed importance sampling, and the depth loss of its
code against the monocular estimate of the render (eq. 6), its weight falling to 0.
Cost: a pair of network calls, one decoding and one monocular estimate a view; a step
draws 82 000 points. `:sd21` asks four pairs, wants an accelerator and has not been run.
Command: python -m sdsjax.main --config=configs/hifa.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, mv_of, stable_diffusion_21
from configs.nerf import large_field, small_field
from sdsjax.training.config import Config


def toybox() -> Config:
    """A small field on the embedded toybox-sd and toybox-dpt: 2 views of 32x32."""
    config = small_field(base_config())
    config.steps = 200
    config.batch_size = 2
    config.resolution = 32
    config.prior.depth_folder = "toybox-dpt"
    config.estimator = ConfigDict({"name": "sds_plus"})
    config.estimator.update(guidance_scale=7.5, weighting="sigma_alpha")
    # four denoising steps scored no better here (experiments/hifa)
    config.estimator.update(steps=1, stride=250, eta=1.0, lambda_rgb=0.025)
    config.timesteps = ConfigDict({"name": "sqrt", "t_min": 300, "t_max": 980})
    # the ramp is over half of the steps: min(1, 2 i/N)
    config.representation.update(kernel=3, z_reduction="counted", ramp_steps=100)
    config.losses.update(z_variance=300.0, depth=10.0)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base at HiFA's settings: 10 000 steps of 512x512; a GPU."""
    config = large_field(stable_diffusion_21(toybox()))
    config.steps = 10_000
    config.camera.first_steps = 0
    config.camera.distance = (3.0, 3.5)
    config.camera.fov = (10.0, 30.0)
    config.prior.depth_folder = "Intel/dpt-large"
    config.estimator.update(guidance_scale=100.0, weighting="one", steps=4)
    # w = 0.05 for both losses
    config.estimator.update(lambda_latent=0.05, lambda_rgb=0.05 * 0.025)
    config.timesteps = ConfigDict({"name": "sqrt", "t_min": 300, "t_max": 980})
    field = config.representation
    field.update(view_degree=2, background_degree=2)
    field.update(kernel=3, z_reduction="sum", ramp_steps=5000)
    config.losses.update(z_variance=3.0, depth=0.1)
    config.optimizer.clip_norm = 1.0
    return config


VARIANTS = {"toybox": toybox, "mv": mv_of(toybox), "sd21": sd21}
get_config = choice(VARIANTS)
