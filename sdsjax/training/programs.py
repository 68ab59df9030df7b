"""The compiled functions of a run, made of its components and compiled when called.

Assets that are made together share them; a session asks for them phase by phase.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from sdsjax.runs.compile_cache import light_compilation
from sdsjax.training.build import Phase, RunComponents
from sdsjax.training.gradient_variance import make_step_variance
from sdsjax.training.previews import make_draw, make_previews
from sdsjax.training.train_step import INIT, init_state, make_train_step


def first_state(components: RunComponents, config):
    """Returns (function, arguments) that make the state before the first step."""

    def start(prior_params, key):
        return init_state(
            components.source,
            components.representation,
            components.estimator,
            components.optimizer,
            components.phases[-1].cameras,
            prior_params,
            jax.random.fold_in(key, INIT),
            config.particles,
            z_spec=components.z_spec,
            noise=components.noise,
        )

    start = jax.jit(start, compiler_options=light_compilation(1))
    return start, (components.source.params, jax.random.key(config.seed))


class Programs:
    """The compiled functions of a run; assets that are made together share them.

    start: (prior_params, key) -> the state before the first step; draw, preview: see
    training/previews. Steps and measurements are made for a phase, once.
    """

    def __init__(self, config, components: RunComponents):
        self.config, self.components = config, components
        self.start, _ = first_state(components, config)
        self.draw = make_draw(components.representation)
        self.preview = make_previews(
            components.source,
            components.representation,
            components.orbit,
            config.resolution,
            self.draw,
        )
        self._variances: dict[Phase, Callable] = {}

    def train_step(self, phase: Phase, **how) -> Callable:
        """Makes a phase's step; how: the mesh, ... of `make_train_step`."""
        components = self.components
        return make_train_step(
            components.source,
            components.representation,
            components.estimator,
            components.optimizer,
            components.sampler,
            phase.cameras,
            total=self.config.steps,
            particles=self.config.particles,
            supervise=components.supervise,
            microbatch=self.config.microbatch,
            noise=components.noise,
            compiler_options=light_compilation(1),
            **how,
        )

    def step_variance(self, phase: Phase, samples: int) -> Callable:
        """Makes a phase's measurement of the gradient's variance, where it is asked."""
        if phase not in self._variances:
            components = self.components
            self._variances[phase] = make_step_variance(
                components.source,
                components.representation,
                components.estimator,
                components.sampler,
                phase.cameras,
                total=self.config.steps,
                samples=samples,
                particles=self.config.particles,
                microbatch=self.config.microbatch,
                noise=components.noise,
            )
        return self._variances[phase]
