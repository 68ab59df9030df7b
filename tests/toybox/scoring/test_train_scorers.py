"""What judge and azimuth network learn from, and what an answer costs them.

Their networks are constants here, and `fit` hands over its recipe: the training loop
has tests of its own.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_networks import read, readable_pool

from sdsjax.toybox.scoring import azimuth, judge
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.world.objects import DIRECTED_KINDS, KINDS

KIND_NAMES = list(KINDS)
HOUSE, BALL, MUG = map(KIND_NAMES.index, ("house", "ball", "mug"))


class Constant:
    """A module that answers with its parameters, whatever it is shown."""

    def init(self, key, x):
        return {"params": 0.0}

    def apply(self, variables, x):
        return variables["params"]


@pytest.fixture
def fitted(monkeypatch):
    """The recipes that were fitted, with their folders' names."""
    asked = []

    def fit(folder, recipe, params, **how):
        asked.append((folder.name, recipe))
        return SimpleNamespace(ema="averaged")

    for module, name in ((judge, "Judge"), (azimuth, "AzimuthNet")):
        monkeypatch.setattr(module, "fit", fit)
        monkeypatch.setattr(module, name, Constant)
        monkeypatch.setattr(module, "roughen", lambda x, key: x)
    return asked


def test_the_judge_learns_what_is_drawn_and_pays_for_each_question(fitted, tmp_path):
    pool = readable_pool([HOUSE, BALL, MUG, 31, 45, 80], [0, 1, 2, 3, 4, 0])
    made = judge.train_judge(tmp_path, pool, steps=70, log=print)
    assert made == "averaged"
    ((name, recipe),) = fitted
    assert (name, recipe.steps) == ("judge", 70)
    x, answers, front = recipe.batch_at(5)
    again = recipe.batch_at(5)[1]
    np.testing.assert_array_equal(answers.kind, again.kind)
    geometry, color, other, view = read(x)
    every = pools.geometries()
    assert [every[g][0] for g in geometry] == [KIND_NAMES[k] for k in answers.kind]
    np.testing.assert_array_equal(answers.color, color)
    np.testing.assert_array_equal(answers.view, view)
    paired = np.array([every[g][1] is not None for g in geometry])
    np.testing.assert_array_equal(answers.base_color, np.where(paired, other, 9))
    directed = [KIND_NAMES[k] in DIRECTED_KINDS for k in answers.kind]
    np.testing.assert_array_equal(front, directed)
    # equal logits: the log of how many there are to choose from; of the view only
    # where the kind has a front
    sizes = (30, 9, len(judge.BASES) + 1, 10, 5)
    logits = judge.Labels(*(np.zeros((64, size), np.float32) for size in sizes))
    loss, aux = jax.jit(recipe.loss)(logits, None, (x, answers, front), None)
    want = sum(np.log(size) for size in sizes[:4]) + np.log(5) * front.mean()
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(aux["kind"], (answers.kind == 0).mean(), rtol=1e-6)
    right = (answers.view == 0)[front].mean()
    np.testing.assert_allclose(aux["view"], right, rtol=1e-5)


def turned_pool():
    """Sided and other things, each at an azimuth that its view says."""
    geometry = [HOUSE, HOUSE, BALL, MUG, MUG, 31]
    orbit = np.array([[10.0 * i - 30, 10.0, 3.0] for i in range(6)], np.float32)
    orbit[4, 1] = 70.0  # from above
    return readable_pool(geometry, np.arange(6), orbit), orbit[:, 0]


def test_the_azimuth_network_learns_from_sided_things_alone(fitted, tmp_path):
    pool, turn = turned_pool()
    assert azimuth.train_azimuth(tmp_path, pool, steps=9, log=print) == "averaged"
    ((name, recipe),) = fitted
    assert (name, recipe.steps) == ("azimuth", 9)
    x, asked = recipe.batch_at(2)
    row = read(x)[3]
    assert set(row) == {0, 1, 3}
    np.testing.assert_array_equal(asked, turn[row])
    angle = np.deg2rad(asked)
    true = np.stack([np.cos(angle), np.sin(angle)], -1)
    lost = jax.jit(lambda said: recipe.loss(said, None, (x, asked), None))
    loss, aux = lost(true.astype(np.float32))
    np.testing.assert_allclose([loss, aux["degrees"]], [0, 0], atol=1e-4)
    # three times as far, and the other way: 4^2 of cos^2 + sin^2, over two numbers
    loss, aux = lost(-3 * true.astype(np.float32))
    np.testing.assert_allclose([loss, aux["degrees"]], [8, 180], rtol=1e-4)


def test_the_error_on_renders_is_the_median_turn_of_sided_ones():
    pool, turn = turned_pool()
    seen = []

    def said(x):
        row = read(x)[3]
        seen.extend(row)
        off = np.select([row == 0, row == 1], [3.0, -7.0], 50.0)
        angle = np.deg2rad(turn[row] + off)
        return np.stack([np.cos(angle), np.sin(angle)], -1)

    error = azimuth.error_on_renders(said, pool, count=300)
    assert error == pytest.approx(7.0, abs=1e-3)
    assert set(seen) == {0, 1, 3}
    assert len(seen) == 300


def test_roughening_keeps_a_flat_picture_flat_up_to_noise_and_gain():
    """Contrast within 0.92..1.05 of each picture, and noise of 0.08 at most."""
    x = jnp.full((64, 16, 16, 3), 0.5)
    rough = np.asarray(jax.jit(judge.roughen)(x, jax.random.key(0)))
    gain = rough.mean((1, 2, 3)) / 0.5
    assert 0.92 - 0.03 < gain.min() < 0.95
    assert 1.02 < gain.max() < 1.05 + 0.03
    noise = rough.std((1, 2, 3))
    assert noise.min() < 0.01
    assert 0.06 < noise.max() < 0.084
