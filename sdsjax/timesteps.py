"""Timestep samplers, under the path that other code imports: diffusion/timesteps."""

from sdsjax.diffusion.timesteps import *  # noqa: F403
