"""Image-to-3D: given views are reconstructed, all others distilled.

Paper: HiFA (arXiv 2305.18766), sec. 5.4 and app. A.5: picture, mask and depth of the
given view(s), one a step, beside score distillation of random views. `:hallucinate`
reconstructs early and only distils from there on.
`reference.path`: a picture (its camera: `reference.azimuth`, `elevation`, `distance`,
`fov`), a folder of them with cameras.json (`python -m sdsjax.toybox references` writes
one) or transforms.json (nerfstudio, instant-ngp; sdsjax/files/given_cameras.py), or
"toybox", the prompt's own true picture, which needs no file. A photograph:
`reference.background=white` keys out a flat background, the extra `photo` any other,
and `reference.fit=true` brings the object to where views show it.
Cost: a view more a step than ssd. `:sd21` wants an accelerator and has not been run.
Command: python -m sdsjax.main --config=image_to_3d --config.reference.path=mug.png
"""

from configs.base import base_config, choice, stable_diffusion_21
from configs.nerf import small_field
from sdsjax.training.config import Config


def toybox() -> Config:
    """Gaussians on toybox-sd, the front given; 3 other views a step."""
    config = base_config()
    config.prompt = "a red mug"
    config.batch_size = 3
    config.prior.depth_folder = "toybox-dpt"
    config.reference.path = "toybox"
    config.reference.weight_depth = 20.0
    return config


def nerf() -> Config:
    """The same into a small field: 2 other views of 32x32 a step."""
    config = small_field(toybox())
    config.steps = 300
    config.batch_size = 2
    config.resolution = 32
    return config


def hallucinate() -> Config:
    """The given view only guides: distillation alone from a third of the run on."""
    config = toybox()
    config.reference.until_step = 200
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base; `reference.path` must be given; a GPU."""
    config = stable_diffusion_21(toybox())
    config.prior.depth_folder = "Intel/dpt-large"
    config.reference.path = "reference.png"
    return config


VARIANTS = {
    "toybox": toybox,
    "nerf": nerf,
    "hallucinate": hallucinate,
    "sd21": sd21,
}
get_config = choice(VARIANTS)
