"""From a config to how a step's noises are drawn (`sdsjax.training.noises.samples`)."""

from __future__ import annotations

from sdsjax.training.config import Config, ConfigError
from sdsjax.training.noises.samples import NoiseSamples, check_noise
from sdsjax.types import Estimator, keep_state


def build_noise(config: Config) -> NoiseSamples:
    """Reads `samples_per_view` and the section `noise`.

    Raises ConfigError for options that do not go together.
    """
    noise = NoiseSamples(config.samples_per_view, **config.noise)
    try:
        check_noise(noise)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return noise


def check_estimator(noise: NoiseSamples, name: str, estimator: Estimator) -> None:
    """Raises ConfigError for an estimator that would learn from a changed t.

    What learns from a step's samples (stein's mu, vsd's second network) takes their t
    as drawn; importance sampling draws them unevenly, and only gradients are weighted.
    """
    if noise.importance and estimator.learn is not keep_state:
        raise ConfigError(
            f"noise.importance draws t unevenly, and estimator {name!r} learns from "
            "what is drawn: set it to false, or choose an estimator that learns nothing"
        )
