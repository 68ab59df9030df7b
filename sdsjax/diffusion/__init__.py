"""Diffusion in general, without a network: arrays in, arrays out.

`noise_schedules` has the schedules and the forward process, `guidance` classifier-free
guidance and its rescaling, `timesteps` the timestep samplers, `importance` draws t
where gradients are large, `mirrored_keys` makes antithetic noise, and `prompts` has the
words that a prompt gets for a camera. It knows nothing of sdsjax but its arithmetic;
everything else may import it, the names below from `sdsjax.diffusion` itself.
"""

from sdsjax.diffusion.guidance import guide, guide_rescaled
from sdsjax.diffusion.noise_schedules import (
    SCHEDULES,
    WEIGHTINGS,
    NoiseSchedule,
    Weighting,
    add_noise,
    alpha_sigma,
    ddim_step,
    denoised,
    velocity_to_noise,
    weight_function,
)

__all__ = [
    "SCHEDULES",
    "WEIGHTINGS",
    "NoiseSchedule",
    "Weighting",
    "add_noise",
    "alpha_sigma",
    "ddim_step",
    "denoised",
    "guide",
    "guide_rescaled",
    "velocity_to_noise",
    "weight_function",
]
