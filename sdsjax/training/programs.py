"""The compiled functions of a run, made of its components and compiled when called.

Assets that are made together share them; a session asks for them phase by phase.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sdsjax.distributed.parameters import is_split
from sdsjax.distributed.sharding import replicated
from sdsjax.runs.compile_cache import light_compilation
from sdsjax.training.build import Phase, RunComponents
from sdsjax.training.gradient_variance import make_step_variance
from sdsjax.training.previews import Previews, make_draw
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
            recursive=components.recursive,
        )

    start = jax.jit(start, compiler_options=light_compilation(1))
    return start, (components.source.params, jax.random.key(config.seed))


class StepMemory(NamedTuple):
    """The bytes that a device holds during a step, by XLA's plan of its program.

    held: parameters of the prior, the state and what the step returns; scratch: what
    comes and goes meanwhile (renderings, the encoder's residuals, activations).
    """

    held: int
    scratch: int


class Programs:
    """The compiled functions of a run; assets that are made together share them.

    start: (prior_params, key) -> the state before the first step; draw, preview: see
    training/previews. Steps and measurements are made for a phase, once.
    """

    def __init__(self, config, components: RunComponents):
        self.config, self.components = config, components
        self.start, _ = first_state(components, config)
        self.draw = make_draw(components.representation)
        self.preview = Previews(
            components.source,
            components.representation,
            components.orbit,
            config.resolution,
            self.draw,
        )
        self._variances: dict[Phase, Callable] = {}

    def train_step(self, phase: Phase, **how) -> Callable:
        """Makes a phase's step; how: the mesh, ... of `make_train_step`."""
        components, recursive = self.components, self.components.recursive
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
            recursive=recursive and recursive._replace(first=phase.first),
            compiler_options=light_compilation(1),
            **how,
        )

    def step_memory(self, phase: Phase) -> StepMemory:
        """Asks XLA what a phase's step holds on a device; compiles it, runs nothing.

        Arrays are placed as a session places them. Raises what the compiler raises.
        """
        prior = self.components.source.params
        key = jax.random.key(self.config.seed)
        state = jax.eval_shape(self.start, prior, key)
        where = replicated(phase.mesh)

        def placed(leaf):
            own = leaf.sharding if is_split(leaf) else where
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own)

        shapes = jax.tree.map(placed, (state, prior, key))
        step = self.train_step(phase, mesh=phase.mesh)
        plan: Any = step.lower(*shapes).compile().memory_analysis()
        results = plan.output_size_in_bytes - plan.alias_size_in_bytes
        return StepMemory(
            plan.argument_size_in_bytes + results, plan.temp_size_in_bytes
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
