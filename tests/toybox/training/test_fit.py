"""The training loop: it averages, stops, resumes exactly and refuses foreign files."""

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.toybox.training import fit as fits
from sdsjax.toybox.training.fit import (
    Recipe,
    fit,
    fit_within,
    flat,
    load_state,
    save_state,
    trapezoid,
)


@pytest.fixture(scope="module", autouse=True)
def first_state_uncompiled():
    """`fit` compiles it for its own optimiser, here twenty times for two numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits, "_first_state", fits._first_state.__wrapped__)
        yield


class Stop(Exception):
    """Stands in for a kill."""


def recipe(stop_at=None, steps=12):
    def batch_at(step):
        if step == stop_at:
            raise Stop
        return np.random.default_rng([3, step]).normal(size=(4, 2)).astype(np.float32)

    def loss(params, frozen, batch, key):
        noise = jax.random.uniform(key, batch.shape, minval=-0.2, maxval=0.2)
        error = batch @ params["w"] + frozen - (batch + noise) @ jnp.ones((2, 1))
        return jnp.mean(error**2), {"size": jnp.sum(params["w"] ** 2)}

    return Recipe(loss, batch_at, steps, peak=0.1, warmup=2, ema_decay=0.9)


START = {"w": np.zeros((2, 1), np.float32)}
FROZEN = np.zeros(1, np.float32)


def run(folder, **kwargs):
    given = recipe(**kwargs)
    return fit(folder, given, START, FROZEN, log=lambda line: None)


def test_a_stopped_fit_ends_bit_identical(tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "SAVE_EVERY", 0.0)
    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "parts", stop_at=7)
    parts = run(tmp_path / "parts")
    for name, value in flat(whole).items():
        np.testing.assert_array_equal(value, flat(parts)[name], err_msg=name)
    assert int(parts.step) == 12


def test_it_learns_and_the_average_follows(tmp_path):
    state = run(tmp_path, steps=300)
    np.testing.assert_allclose(state.params["w"], 1.0, atol=0.1)
    np.testing.assert_allclose(state.ema["w"], 1.0, atol=0.1)
    assert not np.array_equal(state.ema["w"], state.params["w"])


def test_rate_rises_stays_and_falls_to_zero():
    given = recipe()._replace(steps=1000, warmup=100, cooldown=0.2, peak=0.5)
    rates = jax.jit(trapezoid(given))(np.array([0, 50, 100, 800, 900, 1000]))
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.5, 0.25, 0], atol=1e-6)


def test_a_file_of_another_recipe_is_refused(tmp_path):
    save_state(tmp_path / "state", {"a": np.zeros(3), "b": np.zeros(2)})
    with pytest.raises(ValueError, match="another recipe"):
        load_state(tmp_path / "state", {"a": np.zeros(4), "b": np.zeros(2)})
    with pytest.raises(ValueError, match="unexpected entry"):
        load_state(tmp_path / "state", {"a": np.zeros(3)})


def rows(folder):
    return [
        json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()
    ]


def test_the_log_says_each_step_once(tmp_path, monkeypatch):
    with pytest.raises(Stop):
        run(tmp_path, stop_at=60, steps=100)  # logged at 50, no checkpoint yet
    monkeypatch.setattr(fits, "SAVE_EVERY", 0.0)
    run(tmp_path, steps=100)
    with pytest.raises(ValueError, match="another folder"):
        run(tmp_path, steps=150)  # the rate had fallen to zero
    assert [row["step"] for row in rows(tmp_path)] == [50, 100]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The state after twenty steps in one go."""
    return run(tmp_path_factory.mktemp("whole"), steps=20)


def test_a_changed_recipe_is_refused_a_longer_one_only_where_it_changes_the_past(
    tmp_path, monkeypatch, whole
):
    monkeypatch.setattr(fits, "SAVE_EVERY", 0.0)
    with pytest.raises(Stop):
        run(tmp_path, stop_at=5, steps=12)
    with pytest.raises(ValueError, match=r"peak = 0.1 \(now 0.2\)"):
        fit(tmp_path, recipe()._replace(peak=0.2), START, FROZEN, log=print)
    parts = run(tmp_path, steps=20)
    np.testing.assert_array_equal(whole.params["w"], parts.params["w"])


def within(folder, minutes=1.0, **kwargs):
    given = recipe(**kwargs)
    return fit_within(
        folder, given, START, FROZEN, minutes=minutes, log=lambda line: None
    )


def plan(folder):
    return json.loads((folder / "recipe.json").read_text())


def test_minutes_enough_for_all_steps_change_nothing(tmp_path, whole):
    parts = within(tmp_path / "parts", steps=20)
    for name, value in flat(whole).items():
        np.testing.assert_array_equal(value, flat(parts)[name], err_msg=name)


def test_few_minutes_end_cooled_and_a_kill_in_the_cooldown_keeps_its_plan(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fits, "SAVE_EVERY", 0.0)
    # a clock of a second a look: 0.8 of the minute are level, the rest the cool-down
    clock = itertools.count()
    looked = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr(fits, "time", looked)
    state = within(tmp_path, steps=100_000)
    done, said = int(state.step), plan(tmp_path)
    assert done == said["steps"] < 100
    assert 0.1 < said["cooldown"] < 0.4
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(Stop):
        within(tmp_path, steps=100_000, stop_at=done - 2)
    again = within(tmp_path, steps=100_000, minutes=10.0)
    assert plan(tmp_path) == said
    assert int(again.step) == done
