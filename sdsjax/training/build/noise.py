"""From a config to how a step's noises are drawn, and its gradient carried on."""

from __future__ import annotations

from sdsjax.training.config import Config, ConfigError
from sdsjax.training.noises.recursive import Recursive
from sdsjax.training.noises.samples import NoiseSamples, check_noise
from sdsjax.types import Estimator, Representation, keep_state


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


def build_recursive(
    config: Config, estimator: Estimator, representation: Representation
) -> Recursive | None:
    """Reads `optimizer.recursive`: how gradients are carried on, or None.

    Raises ConfigError where two steps' gradients cannot be compared: an estimator that
    learns, rows that density control moves, particles that take turns.
    """
    if not config.optimizer.recursive:
        return None
    refused = {
        f"estimator.name={config.estimator.name} learns from step to step": (
            estimator.learn is not keep_state
        ),
        f"representation.control={config.representation.get('control')} moves rows": (
            config.representation.name == "gaussians"
            and representation.control is not None
        ),
        f"particles={config.particles} take turns": config.particles > 1,
    }
    for reason, holds in refused.items():
        if holds:
            raise ConfigError(
                f"optimizer.recursive compares each step's gradient with the last's, "
                f"and {reason}: set optimizer.recursive=False, or change that"
            )
    return Recursive()
