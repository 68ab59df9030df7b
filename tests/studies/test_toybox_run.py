"""Runs on a world so small that their end is known: theta is one colour, its gradient
the prior's number times the setting times t."""

from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdsjax.cameras import OrbitRange, random_orbits
from sdsjax.diffusion import NoiseSchedule
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.studies import toybox_run
from sdsjax.studies.toybox_run import ToyboxRuns, drawn_times, from_table
from sdsjax.toybox.scoring.score import Views
from sdsjax.toybox.world.captions import CaptionError
from sdsjax.types import (
    Estimate,
    Estimator,
    NoisePrediction,
    Prior,
    PriorSource,
    Rendering,
    Representation,
)

SIZE, VIEWS, STEPS, PIXELS = 4, 2, 3, 16
SCHEDULE = NoiseSchedule.scaled_linear()
WINDOW = TIMESTEPS["annealed_window"]()
PULLS = {"a red mug": 0.2, "a blue house": -0.3}


class Colour(NamedTuple):
    rgb: jax.Array


def one_colour() -> Representation:
    def render(params, state, camera, key):
        del state, key
        shape = camera.height, camera.width
        rgb = jnp.broadcast_to(params.rgb, (*shape, 3))
        return Rendering(rgb, jnp.ones(shape), jnp.full(shape, 3.0), rgb)

    def init(key):
        return Colour(jax.random.uniform(key, (3,), minval=0.4, maxval=0.6)), ()

    return Representation(init, render, "latent", lambda *_: (jnp.zeros(()), {}))


def pieces(prompt, steps, asked):
    asked.append((prompt, steps))

    def bind(pull):
        def noise(z_t, t, view=None, branches=("cond", "uncond")):
            return NoisePrediction(jnp.full_like(z_t, pull), None, None)

        return Prior(SCHEDULE, noise, encode=lambda x: x)

    cameras = partial(
        random_orbits, count=VIEWS, orbit=OrbitRange(), width=SIZE, height=SIZE
    )
    return SimpleNamespace(
        source=PriorSource(jnp.float32(PULLS[prompt]), bind),
        schedule=SCHEDULE,
        representation=one_colour(),
        optimizer=optax.sgd(1.0 / SIZE**2),  # a colour's gradient is that of all pixels
        sampler=WINDOW,
        phases=[SimpleNamespace(cameras=cameras)],
        recursive=None,
    )


def half_covered(spec, orbits, *, size):
    """The truth instead of a traced scene, whose compilation takes seconds: a grey
    plane at depth 3 in the left half of every view."""
    shape = len(orbits), size, size
    opacity = np.broadcast_to(np.arange(size) < size // 2, shape).astype(np.float32)
    grey = np.full((*shape, 3), 0.5, np.float32)
    return Views(grey, opacity, np.full(shape, 3.0, np.float32), grey)


@pytest.fixture(scope="module", autouse=True)
def small_truth():
    toybox_run.true_views.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toybox_run.scoring, "SIZE", PIXELS)
        patch.setattr(toybox_run.scoring, "true_views", half_covered)
        yield
    toybox_run.true_views.cache_clear()


@pytest.fixture(scope="module")
def stage():
    """(runs, what pieces were asked for, schedules that `make` saw, make)."""
    asked, made = [], []

    def make(schedule, settings):
        made.append(schedule)
        scale = settings["scale"]

        def estimate(prior, key, state, z, t, view):
            grad = scale * t / 1000 * prior.noise(z, t, view).cond
            return Estimate(grad, {})

        return Estimator(lambda prior, key, z_spec: (), estimate)

    return ToyboxRuns(partial(pieces, asked=asked)), asked, made, make


@jax.jit
def start(seed):
    key = jax.random.fold_in(jax.random.key(seed), toybox_run.INIT)
    return one_colour().init(jax.random.split(key)[0])[0].rgb


def expected(prompt, seed, scale, rate, times):
    total = np.asarray(times).mean(1).sum()
    moved = rate * scale * PULLS[prompt] * total / 1000
    return np.asarray(start(seed)) - moved


def test_one_compilation_serves_prompts_seeds_settings_and_rates(stage):
    runs, asked, made, make = stage
    for prompt, seed, scale, rate in [
        ("a red mug", 0, 1.0, 1.0),
        ("a red mug", 1, 0.5, 1.0),
        ("a blue house", 0, 1.0, 0.5),
    ]:
        found = runs.run(
            "pull", make, {"scale": jnp.float32(scale)},
            prompt=prompt, seed=seed, steps=STEPS, rate=rate,
        )  # fmt: skip
        times = drawn_times(WINDOW, seed, STEPS, VIEWS)
        truth = expected(prompt, seed, scale, rate, times)
        assert found.strip.shape == (PIXELS, 4 * PIXELS, 3)
        np.testing.assert_allclose(found.strip[5, 5], truth, rtol=1e-5)
        assert found.finite
        assert set(found.truth) == set(toybox_run.FIGURES)
        # it covers every pixel, the truth half of them
        np.testing.assert_allclose(found.truth["iou"], 0.5, rtol=1e-5)
        error = ((truth - 0.5) ** 2).mean()
        np.testing.assert_allclose(
            found.truth["psnr"], -10 * np.log10(error), rtol=1e-4
        )
    assert len(made) == 2  # the start and the step, traced once
    assert asked == [("a red mug", 1), ("a red mug", STEPS), ("a blue house", 1)]


def test_a_table_of_times_is_the_sampler(stage):
    runs, _, made, make = stage
    before = len(made)
    for name in ("sqrt", "uniform"):
        times = drawn_times(TIMESTEPS[name](), 0, STEPS, VIEWS)
        found = runs.run(
            "table", make, {"scale": jnp.float32(1.0), "times": times},
            prompt="a red mug", seed=0, steps=STEPS,
            sampler=lambda settings: from_table(settings["times"]),
        )  # fmt: skip
        truth = expected("a red mug", 0, 1.0, 1.0, times)
        np.testing.assert_allclose(found.strip[5, 5], truth, rtol=1e-5)
    assert len(made) == before + 2


def test_times_are_those_that_training_draws():
    key = jax.random.key(3)
    times = drawn_times(WINDOW, 3, 20, VIEWS)
    assert times.shape == (20, VIEWS)

    @jax.jit
    def drawn_by_training(index):
        return WINDOW(toybox_run.step_keys(key, index)["t"], index, 20, (VIEWS,))

    times = np.asarray(times)
    for index in (0, 19):
        np.testing.assert_array_equal(times[index], drawn_by_training(index))
    assert (times[:, 0] != times[:, 1]).any()


def test_a_run_that_diverges_is_scored_and_says_so(stage):
    runs, _, _, make = stage
    found = runs.run(
        "pull", make, {"scale": jnp.float32(np.inf)},
        prompt="a red mug", seed=0, steps=STEPS,
    )  # fmt: skip
    assert not found.finite
    assert np.isfinite(found.truth["psnr"])
    with pytest.raises(CaptionError):
        runs.run("pull", make, {}, prompt="a grey nothing", seed=0, steps=STEPS)


def test_one_compilation_serves_runs_of_any_length(stage):
    _, _, made, make = stage
    runs, before = ToyboxRuns(partial(pieces, asked=[]), falls_to=0.1), len(made)
    for steps in (1, STEPS):
        drawn = np.asarray(drawn_times(WINDOW, 0, steps, VIEWS))
        times = np.pad(drawn, ((0, STEPS - steps), (0, 0)))
        found = runs.run(
            "fall", make, {"scale": jnp.float32(1.0), "times": times},
            prompt="a red mug", seed=0, steps=steps,
            sampler=lambda settings: from_table(settings["times"]),
        )  # fmt: skip
        # rates fall geometrically to a tenth over the run's own length
        weights = 0.1 ** (np.arange(steps) / steps)
        begun = expected("a red mug", 0, 0.0, 1.0, drawn)
        moved = PULLS["a red mug"] * (weights * drawn.mean(1)).sum() / 1000
        np.testing.assert_allclose(found.strip[5, 5], begun - moved, rtol=1e-5)
    assert len(made) == before + 2
