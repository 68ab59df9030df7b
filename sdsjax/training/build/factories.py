"""The sections of a config that hold a factory's name and its keyword arguments."""

from __future__ import annotations

from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.representations import REPRESENTATIONS
from sdsjax.training.config import Config

FACTORIES = {
    "estimator": ESTIMATORS,
    "timesteps": TIMESTEPS,
    "representation": REPRESENTATIONS,
}


def arguments(section: Config) -> dict:
    """Returns a section without its name: the keyword arguments of its factory."""
    return {key: value for key, value in section.items() if key != "name"}
