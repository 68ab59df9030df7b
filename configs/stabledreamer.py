"""StableDreamer's Gaussians: a uniform ball, opacities that decay, and resets.

Paper: StableDreamer (arXiv 2312.02189): SDS whose noise is annealed over the run,
Gaussians uniform in a ball whose opacities decay at each edit, so that what no view
asks for dies; densified, pruned and reset periodically. Its two stages (DeepFloyd, then
latent diffusion) are one here; figures it does not give are threestudio's.
`:mcmc` has 3DGS-MCMC's rule (arXiv 2404.09591) in its place.
Cost: two network calls a view, as sds. `:sd21` wants an accelerator and has not been
run on real weights.
Command: python -m sdsjax.main --config=configs/stabledreamer.py
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, mv_of, stable_diffusion_21
from sdsjax.training.config import Config


def toybox() -> Config:
    """On the embedded toybox-sd, its schedule shortened to 600 steps."""
    config = base_config()
    config.estimator = ConfigDict({"name": "sds", "weighting": "sigma2"})
    config.estimator.guidance_scale = 7.5
    gaussians = config.representation
    gaussians.update(count=3000, init_count=2000, init_opacity=0.2)
    gaussians.control = "stabledreamer"
    gaussians.update(control_every=50, control_start=100, control_stop=500)
    # screen gradients follow the size of the latents and of w(t): for toybox-sd
    gaussians.update(control_threshold=2.0, control_clone_scale=0.03)
    gaussians.update(control_reset_every=300, control_reset_opacity=0.2)
    return config


def mcmc() -> Config:
    """The same with relocation and noise, and the two regularisers that go with it."""
    config = toybox()
    gaussians = config.representation
    for key in [key for key in gaussians if key.startswith("control")]:
        del gaussians[key]
    gaussians.update(control="mcmc", control_every=50, control_start=100)
    # learning rates here are some 100 times the paper's, and so is Sigma
    gaussians.control_noise = 100.0
    config.losses.update(opacity=0.01, scale=0.01)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base, threestudio's settings; needs weights and a GPU."""
    config = stable_diffusion_21(toybox())
    config.estimator.guidance_scale = 100.0
    gaussians = config.representation
    gaussians.update(count=50_000, init_count=4096, init_radius=0.8)
    gaussians.update(control_every=300, control_start=500, control_stop=12_000)
    gaussians.update(control_threshold=0.01, control_clone_scale=0.01)
    gaussians.update(control_reset_every=3000, control_reset_opacity=0.1)
    config.losses.update(position=1.0, opacity=1e-4, scale=1e-4, total_variation=1.0)
    return config


VARIANTS = {"toybox": toybox, "mv": mv_of(toybox), "mcmc": mcmc, "sd21": sd21}
get_config = choice(VARIANTS)
