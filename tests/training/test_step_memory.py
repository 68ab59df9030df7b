"""XLA's plan of a step's memory is that of the step that a run takes."""

import jax
import numpy as np
import pytest
import tiny_run

from sdsjax.training.build import build
from sdsjax.training.programs import Programs

RUN = {"resolution": 16, "batch_size": 8, "preview_every": 0}


def programs_of(**overrides):
    config = tiny_run.config(**{**RUN, **overrides})
    return Programs(config, build(config))


def bytes_of(tree) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def test_it_is_what_the_compiled_step_says_of_itself():
    programs = programs_of()
    components = programs.components
    phase, params = components.phases[-1], components.source.params
    found = programs.step_memory(phase)
    # the step as a session calls it, with arrays and not with shapes
    key = jax.random.key(0)
    state = programs.start(params, key)
    step = programs.train_step(phase, mesh=phase.mesh)
    plan = step.lower(state, params, key).compile().memory_analysis()
    assert found.scratch == pytest.approx(plan.temp_size_in_bytes, rel=0.15)
    theirs = bytes_of(params) + bytes_of((state.params, state.opt_state))
    assert found.held == pytest.approx(theirs, rel=0.15)


@pytest.mark.slow
def test_views_in_turn_take_less_scratch_space():
    whole, in_turn = (
        one.step_memory(one.components.phases[-1])
        for one in (
            programs_of(resolution=32),
            programs_of(resolution=32, microbatch=1),
        )
    )
    assert in_turn.scratch < whole.scratch
    assert in_turn.held == pytest.approx(whole.held, rel=0.01)
