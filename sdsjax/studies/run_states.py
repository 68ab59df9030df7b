"""A state in the middle of a run, for what is measured at one point of distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from sdsjax.training.build import RunComponents, build
from sdsjax.training.config import Config
from sdsjax.training.noises.samples import NoiseSamples
from sdsjax.training.train_step import INIT, init_state, make_train_step

WARM = NoiseSamples(importance=True)
# the variant of `sds` that distils each prior
SDS_ON = {"exact": "sds:exact", "toybox-sd": "sds:toybox", "toybox-mv": "sds:mv"}


class Point(NamedTuple):
    """A state of a run, with the run's config, parts and number of steps."""

    built: RunComponents
    state: NamedTuple
    total: int
    config: Config


def stepper(built: RunComponents, total: int, noise: NoiseSamples) -> Callable:
    """Makes the run's train step with noises drawn in another way."""
    return make_train_step(
        built.source, built.representation, built.estimator, built.optimizer,
        built.sampler, built.phases[-1].cameras, total=total, noise=noise,
    )  # fmt: skip


def reach(config: Config, steps: int) -> Point:
    """Trains the first steps of a resolved config's run, in its last phase.

    Times are drawn by importance, so that the state has the statistics of t.
    """
    built, total = build(config), config.steps
    key, params = jax.random.key(0), built.source.params
    start = jax.jit(
        lambda params, key: init_state(
            built.source, built.representation, built.estimator, built.optimizer,
            built.phases[-1].cameras, params, key, z_spec=built.z_spec, noise=WARM,
        )
    )  # fmt: skip
    state, step = start(params, jax.random.fold_in(key, INIT)), None
    for _ in range(steps):
        step = step or stepper(built, total, WARM)
        state, _ = step(state, params, key)
    return Point(built, state, total, config)
