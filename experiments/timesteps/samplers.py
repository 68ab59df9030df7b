"""The schedules of t that are compared, by the names of the tables."""

from __future__ import annotations

from sdsjax.diffusion.timesteps import TIMESTEPS

SAMPLERS = {
    "sqrt (HiFA)": TIMESTEPS["sqrt"](),
    "linear": TIMESTEPS["linear"](),
    "cosine": TIMESTEPS["cosine"](),
    "random": TIMESTEPS["uniform"](),
    "random, falling window": TIMESTEPS["annealed_window"](t_end=50),
}
