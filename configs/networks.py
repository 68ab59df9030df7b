"""Today's networks in the place of Stable Diffusion 2.1: a method's `:sdxl`, `:sd3`.

A method's settings for them are those of its `:sd21`; nobody here has tried others.
"""

from configs.base import Variant
from sdsjax.training.config import Config


def stable_diffusion_xl(config: Config) -> Config:
    """SDXL base in the place of 2.1-base, at its own 1024x1024; 512 and 768 run too.

    `prior.image_size` and `resolution` say the size, which the network is told. The
    first phase has 2 views, since each is encoded at the full size.
    """
    config.prior.folder = "stabilityai/stable-diffusion-xl-base-1.0"
    with config.prior.ignore_type():
        config.prior.variant = "fp16"
    config.resolution = 1024
    if config.camera.first_steps:
        config.camera.first_batch_size = min(2, config.camera.first_batch_size)
    return config


def stable_diffusion_35(config: Config) -> Config:
    """Stable Diffusion 3.5-medium in the place of 2.1-base, at 512x512 too."""
    config.prior.name = "stable_diffusion3"
    config.prior.folder = "stabilityai/stable-diffusion-3.5-medium"
    config.prior.image_size = 512
    return at_flow_times(config)


def at_flow_times(config: Config) -> Config:
    """Moves times inside the range to where signal and noise are as they were.

    500 (SSD's threshold, the window's end) to 350, 200 (NFSD's switch) to 160.
    """
    if "threshold" in config.estimator:
        config.estimator.threshold *= 0.7
    if "switch_time" in config.estimator:
        config.estimator.switch_time = 160
    if config.timesteps.get("t_end") == 500:
        config.timesteps.t_end = 350
    return config


def sdxl_of(sd21: Variant) -> Variant:
    """A method's `:sdxl`: its `:sd21` on SDXL base."""

    def sdxl() -> Config:
        """Stable Diffusion XL base at 1024x1024, as `:sd21`; needs a large GPU."""
        return stable_diffusion_xl(sd21())

    return sdxl


def sd3_of(sd21: Variant) -> Variant:
    """A method's `:sd3`: its `:sd21` on Stable Diffusion 3.5-medium."""

    def sd3() -> Config:
        """Stable Diffusion 3.5-medium, flow matching: gated weights, wants a GPU."""
        return stable_diffusion_35(sd21())

    return sd3


def flow_of(toybox: Variant) -> Variant:
    """A method's `:flow`: the same on toybox-flow, a miniature Stable Diffusion 3."""

    def flow() -> Config:
        """Gaussians on the embedded toybox-flow: flow matching, view words, 64x64."""
        config = toybox()
        config.prior.name = "stable_diffusion3"
        config.prior.folder = "toybox-flow"
        return at_flow_times(config)

    return flow
