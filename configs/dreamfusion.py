"""DreamFusion: SDS into a radiance field, shaded, with orientation and opacity losses.

Paper: DreamFusion (arXiv 2209.14988), secs. 3.2-3.3 and app. A.2: shading by a light
near the camera, textureless at times, Ref-NeRF's orientation loss, a blob of density
and a loss against haze, here threestudio's `sparsity` and its settings for Stable
Diffusion. The paper's mip-NeRF is a hash grid here and its Imagen another prior.
Cost: two network calls a view; normals of every point are three more derivatives of
the density, in every view as soon as one may be shaded.
`:sd21` wants an accelerator and has not been run.
Command: python -m sdsjax.main --config=configs/dreamfusion.py
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, stable_diffusion_21
from configs.nerf import large_field, small_field
from sdsjax.training.config import Config


def toybox() -> Config:
    """A small field on the embedded toybox-sd: 2 views of 32x32."""
    config = small_field(base_config())
    config.steps = 300
    config.batch_size = 2
    config.resolution = 32
    config.estimator = ConfigDict({"name": "sds", "weighting": "sigma2"})
    config.estimator.guidance_scale = 7.5
    # the toybox's own light is fixed: shading is the exception
    config.representation.update(lambertian=0.2, textureless=0.1, ramp_steps=150)
    config.losses.update(orientation=10.0, sparsity=1.0)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base: 10 000 steps of 64x64; needs weights and a GPU."""
    config = large_field(stable_diffusion_21(toybox()))
    config.steps = 10_000
    config.resolution = 64
    config.camera.first_steps = 0
    config.camera.update(distance=(1.5, 2.0), fov=(40.0, 70.0))
    config.estimator.guidance_scale = 100.0
    config.timesteps = ConfigDict({"name": "uniform", "t_min": 20, "t_max": 980})
    field = config.representation
    field.update(coarse=256, fine=256, view_degree=0, background_degree=2)
    field.update(lambertian=0.375, textureless=0.375, ramp_steps=5000)
    config.losses.update(orientation=1000.0, sparsity=1.0)
    config.optimizer.lr.update(tables=0.01, density=0.01, color=0.01, background=0.001)
    return config


VARIANTS = {"toybox": toybox, "sd21": sd21}
get_config = choice(VARIANTS)
