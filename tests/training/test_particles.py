"""Several assets in one state: each is trained in its turn, psi is everybody's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from PIL import Image
from test_train_step import front_views

from sdsjax import priors
from sdsjax.cli.checks import resolve
from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.representations.image import image
from sdsjax.training import train
from sdsjax.training.config import ConfigError
from sdsjax.training.particles import state_of_particle, with_particle
from sdsjax.training.train_step import init_state, make_train_step
from sdsjax.types import PriorSource

SCHEDULE = NoiseSchedule.scaled_linear()
COUNT, STEPS = 3, 7


def source():
    means = np.ones((2, 4, 4, 3), np.float32)
    means *= np.array([0.6, -0.4], np.float32).reshape(2, 1, 1, 1)

    def bind(means):
        spread = (0.5, 0.5), means, (0.05, 0.05), (True, True)
        return priors.gaussian_mixture(SCHEDULE, *spread)

    return PriorSource(jax.device_put(means), bind)


def pieces(particles):
    """vsd on a mixture, free pixels: (step, state, prior parameters, key)."""
    representation = image(shape=(4, 4, 3), space="image")
    estimator = ESTIMATORS["vsd"](SCHEDULE, guidance_scale=1.0, adapter_lr=0.01)
    cameras = partial(front_views, n=2)
    optimizer, prior, key = optax.adam(0.02), source(), jax.random.key(3)
    step = make_train_step(
        prior, representation, estimator, optimizer,
        lambda key, step, total, shape: jax.random.randint(key, shape, 100, 800),
        cameras, total=STEPS, particles=particles,
    )  # fmt: skip
    parts = prior, representation, estimator, optimizer, cameras
    start = jax.jit(partial(init_state, *parts, particles=particles))
    return step, start(prior.params, key), prior.params, key


def close(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_side_by_side_equals_separate_states_that_hand_the_shared_one_on():
    step, state, prior_params, key = pieces(COUNT)
    alone = pieces(1)[0]
    separate = [state_of_particle(state, index, COUNT) for index in range(COUNT)]
    separate = jax.tree.map(jnp.array, separate)
    shared = separate[0].estimator_state
    for index in range(STEPS):
        state, _ = step(state, prior_params, key)
        mine = separate[index % COUNT]._replace(
            step=jnp.asarray(index, jnp.int32), estimator_state=shared
        )
        mine, _ = alone(jax.tree.map(jnp.array, mine), prior_params, key)
        separate[index % COUNT], shared = mine, mine.estimator_state
    for index, mine in enumerate(separate):
        own = state_of_particle(state, index, COUNT)
        close((own.params, own.opt_state), (mine.params, mine.opt_state))
    close(state.estimator_state, shared)


def test_a_step_moves_its_own_particle_and_no_other():
    step, state, prior_params, key = pieces(COUNT)
    before = np.asarray(state.params.pixels)
    assert len(np.unique(before.reshape(COUNT, -1), axis=0)) == COUNT
    state, _ = step(state, prior_params, key)
    state, _ = step(state, prior_params, key)
    moved = (np.asarray(state.params.pixels) != before).any(axis=(1, 2, 3))
    assert moved.tolist() == [True, True, False]


def test_one_particle_has_no_axis():
    _, state, _, _ = pieces(1)
    assert state.params.pixels.shape == (4, 4, 3)
    assert state_of_particle(state, 0, 1) is state
    assert with_particle(state, 0, state, 1) is state


def test_a_run_shows_every_particle(tmp_path):
    """Pictures, of which a row each; splats with a file each are slow, below."""
    config = tiny_run.config(particles=2, steps=4, checkpoint_every=0)
    asset = train.run(config, tmp_path / "run")
    assert asset.metrics["warnings"] == []
    assert asset.params.pixels.shape == (2, 8, 8, 3)
    sheet = np.asarray(Image.open(asset.paths["particles"]))
    top, bottom = np.split(sheet, 2)
    assert (top != bottom).any()
    assert "A row a particle" in asset.paths["report"].read_text()


@pytest.mark.slow
def test_a_run_of_splats_writes_every_particle(tmp_path):
    config = resolve(
        "ssd",
        {
            **{"prior.name": "gaussian_mixture", "prompt": "a red cube", "steps": 4},
            **{"particles": 2, "representation.count": 20, "resolution": 8},
            **{"exports.turntable_frames": 2, "exports.mesh_resolution": 8},
            **{"checkpoint_every": 0, "preview_every": 0, "scoring.truth": False},
        },
    )
    asset = train.run(config, tmp_path / "run")
    assert asset.metrics["warnings"] == []
    assert asset.params.means.shape == (2, 20, 3)
    sheet = np.asarray(Image.open(asset.paths["particles"]))
    views = np.asarray(Image.open(asset.paths["views"]))
    top, bottom = np.split(sheet, 2)
    np.testing.assert_array_equal(top, views)
    assert (top != bottom).any()
    assert {"splats", "splats_1"} < set(asset.paths)
    assert "A row a particle" in asset.paths["report"].read_text()


def test_too_many_are_refused():
    with pytest.raises(ConfigError, match="particles"):
        tiny_run.config(particles=0)
