"""Views taken in turn: the same step, in the memory of one turn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train_step import SCHEDULE, assemble, flat_representation

from sdsjax.cli.checks import resolve
from sdsjax.distributed.sharding import in_turns
from sdsjax.estimators import ESTIMATORS
from sdsjax.training.build import build
from sdsjax.training.train_step import init_state, make_train_step


def close(one, other, rtol):
    named = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(named, jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-6, err_msg=str(path))


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_turns_give_the_sum_over_all_with_its_gradient(at_once):
    # 5 entries: 2 and 3 leave a rest
    matrix = jax.random.normal(jax.random.key(0), (5, 3))

    def loss(shared, map_of):
        return jnp.sum(map_of(lambda w, row: jnp.sin(row @ w))(shared, matrix) ** 2)

    def both(weights):
        plain = lambda f: jax.vmap(f, in_axes=(None, 0))  # noqa: E731
        turns = lambda f: in_turns(f, at_once)  # noqa: E731
        return [jax.value_and_grad(loss)(weights, how) for how in (plain, turns)]

    expected, found = jax.jit(both)(jnp.arange(3.0))
    close(expected, found, 1e-5)


@pytest.mark.parametrize("name", [pytest.param("ssd", marks=pytest.mark.slow), "stein"])
def test_a_step_in_turns_is_the_step(name):
    # a penalty of all renderings, and stein's mu, which pulls all directions back
    learnt = {"fit": "element", "fit_space": "theta"}
    options = {"ssd": {"threshold": 500.0}, "stein": learnt}[name]
    steps = []
    for microbatch in (0, 2):
        step, state, prior_params, key = assemble(
            flat_representation(penalty=0.3),
            ESTIMATORS[name](SCHEDULE, **options),
            n=5,
            microbatch=microbatch,
        )
        for _ in range(2):
            state, metrics = step(state, prior_params, key)
        steps.append((state, metrics))
    assert float(steps[0][1]["grad/pixels"]) > 1e-3
    # mu follows a slope from the difference of two renderings, a rounding error each
    close(*steps, 1e-4 if name == "stein" else 1e-5)


def in_memory(microbatch, overrides):
    """A step of a config at plain gradient descent, and the step's scratch space."""
    config = resolve("dreamgaussian:mv", overrides)
    pieces = build(config)
    parts = pieces.source, pieces.representation, pieces.estimator, optax.sgd(1e-3)
    phase, prior_params = pieces.phases[-1], pieces.source.params
    step = make_train_step(
        *parts, pieces.sampler, phase.cameras, total=10, microbatch=microbatch
    )
    key = jax.random.key(3)
    start = jax.jit(partial(init_state, *parts, phase.cameras, z_spec=pieces.z_spec))
    state = start(prior_params, key)
    compiled = step.lower(state, prior_params, key).compile()
    state, metrics = compiled(state, prior_params, key)
    found = jax.device_get((state.params, state.rep_state, metrics))
    return found, compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_a_run_in_turns_is_the_run_in_less_memory():
    # groups of four views (a turn holds half of one), and a probe of density control
    overrides = {"batch_size": 8, "representation.count": 100, "resolution": 32}
    all_at_once, whole = in_memory(0, overrides)
    in_pairs, less = in_memory(2, overrides)
    assert float(all_at_once[2]["grad/means"]) > 1e-3
    close(all_at_once, in_pairs, 3e-4)
    assert less < 0.6 * whole
