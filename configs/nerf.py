"""A hash-grid radiance field in the place of Gaussians, under base.py's estimator.

Papers: instant-ngp (arXiv 2201.05989) for the field, DreamFusion (arXiv 2209.14988) for
distilling into one, HiFA (arXiv 2305.18766) for the kernel that smooths its sampling;
`:sd21` has the field, phases and losses of SSD (arXiv 2312.09305). `:scene` has no
object in a cube but all of space, contracted, and cameras inside, as SteinDreamer's
scenes (arXiv 2401.00604, fig. 4).
Cost: a step draws 164 000 points and asks the network twice a view. With
`--config.representation.proposal=4 --config.losses.interlevel=1` the field takes two
thirds of its time at equal scores (experiments/bench_nerf, hifa). `:sd21` and `:scene`
want an accelerator and have not been run at full size.
Command: python -m sdsjax.main --config=configs/nerf.py --config.prompt="a red mug"
"""

from ml_collections import ConfigDict

from configs.base import base_config, choice, stable_diffusion_21
from sdsjax.training.config import Config


def small_field(config: Config) -> Config:
    """A field for toybox-sd: 8 levels of at most 16 384 rows, 40 points a ray."""
    config.representation = field = ConfigDict({"name": "nerf"})
    field.update(levels=8, log2_size=14, base=4, growth=1.5, hidden=32)
    field.update(coarse=24, fine=16)
    config.optimizer.lr = ConfigDict()
    config.optimizer.lr.update(tables=0.02, density=0.005, color=0.005)
    # for those who ask for a learnt background or a proposal
    config.optimizer.lr.update(background=0.001, proposal=0.01)
    # a field draws slower than Gaussians: 65 536 rays a frame
    config.exports.turntable_frames = 16
    return config


def large_field(config: Config) -> Config:
    """instant-ngp's field: 16 levels of at most 2^19 rows, 128 points a ray."""
    config.representation = field = ConfigDict({"name": "nerf"})
    field.update(levels=16, log2_size=19, base=16, growth=1.4472692, hidden=64)
    field.update(coarse=64, fine=64, chunk=16_384)
    config.optimizer.lr = ConfigDict()
    config.optimizer.lr.update(tables=0.01, density=0.001, color=0.001)
    config.optimizer.lr.update(background=0.001, proposal=0.01)
    return config


def toybox() -> Config:
    """A small field on the embedded toybox-sd: 4 views of 32x32, then 2 of 64x64."""
    config = small_field(base_config())
    config.steps = 400
    config.batch_size = 2
    config.camera.update(first_steps=280, first_resolution=32, first_batch_size=4)
    return config


def sd21() -> Config:
    """Stable Diffusion 2.1-base into a 16-level progressive band; needs a GPU."""
    config = large_field(stable_diffusion_21(toybox()))
    field = config.representation
    field.update(band_first=8, band_start=2000, band_every=500, ramp_steps=5000)
    config.losses.orientation = 1000.0
    return config


def scene() -> Config:
    """A scene around cameras that stand inside it, on Stable Diffusion 2.1; a GPU."""
    config = sd21()
    config.prompt = "a DSLR photo of a cosy living room"
    config.prior.view_prompts = False  # a room has no front
    field = config.representation
    # hollow to begin with: a bias of 0 would fill all of space with fog
    field.update(scene="contracted", blob_scale=-10.0, blob_radius=1.5)
    # cameras near the middle look through it at what lies behind
    config.camera.distance = (0.1, 0.5)
    config.camera.elevation = (-20.0, 20.0)
    config.camera.fov = (60.0, 80.0)
    config.camera.overhead_fraction = 0.0
    config.losses.orientation = 0.0
    config.losses.distortion = 1.0
    return config


VARIANTS = {"toybox": toybox, "sd21": sd21, "scene": scene}
get_config = choice(VARIANTS)
