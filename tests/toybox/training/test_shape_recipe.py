"""What the depth and normals network is shown, and what is written of it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training import train_depth
from sdsjax.toybox.training.train_depth import DepthRecipe

SIZE = 4


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    layers, surface = (
        rng.integers(1, 256, (10, SIZE, SIZE, channels), np.uint8)
        for channels in (6, 4)
    )
    geometry = np.repeat([0, 1, 2, 30, 31], 2).astype(np.int32)
    return pools.Pool(layers, geometry, np.arange(10) % 5, surface)


@pytest.fixture
def fitted(monkeypatch):
    """The plans that were fitted, by the function that was asked."""
    asked = []

    def recorder(name):
        def fit(folder, plan, params, frozen, **how):
            asked.append((name, folder.name, plan, params, how))
            return SimpleNamespace(ema={"averaged": 1})

        return fit

    for name in ("fit", "fit_within"):
        monkeypatch.setattr(train_depth, name, recorder(name))
    monkeypatch.setattr(
        train_depth, "_begin", lambda module, seed, size: {"seed": seed}
    )
    monkeypatch.setattr(train_depth, "frozen_vae", lambda recipe: ("apply", "frozen"))
    return asked


def test_a_quarter_of_a_batch_is_seen_in_each_way(fitted, pool, tmp_path, monkeypatch):
    """Each way of degrading adds its number; the network tells it, as its disparity."""
    recipe, times = DepthRecipe(batch=8, steps=5, seed=3), []

    def early(key, x, background):
        return 0 * x + 1

    def noised(key, x, t, schedule):
        times.append(t)
        return 0 * x + 2

    def latent(key, x, t, schedule, apply, frozen):
        assert (apply, frozen) == ("apply", "given")
        return 0 * x + 3

    def raw(module, params, x):
        assert module.config.outputs == 4
        return jnp.tile(x[..., :1], 4)

    def cost(raw, surface):
        return jnp.mean(surface), {"seen": raw[:, 0, 0, 0]}

    ways = {"early_render": early, "noised": noised, "through_latents": latent}
    for name, way in (ways | {"raw_outputs": raw, "shape_loss": cost}).items():
        monkeypatch.setattr(train_depth, name, way)
    train_depth.train_shapes(tmp_path, pool, recipe)
    ((name, folder, plan, params, how),) = fitted
    assert (name, folder, plan.steps, params) == ("fit", "shapes", 5, {"seed": 3})
    assert how["pictures"] == 8
    x, _, surface = batch = plan.batch_at(1)
    np.testing.assert_array_equal(surface, plan.batch_at(1)[2])
    loss = jax.jit(lambda batch, key: plan.loss(params, "given", batch, key))
    total, aux = loss(batch, jax.random.key(0))
    np.testing.assert_allclose(aux["seen"][:2], x[:2, 0, 0, 0])
    np.testing.assert_array_equal(aux["seen"][2:], [1, 1, 2, 2, 3, 3])
    assert times[0].shape == (2,)
    np.testing.assert_allclose(total, surface.mean(), rtol=1e-6)
    # the surfaces are those of the pictures, as shares of 255
    chosen = pools.draw(pool, np.random.default_rng([3, 9, 1]), 8, pair_fraction=0.35)
    np.testing.assert_allclose(surface, pool.surface[chosen.row] / 255.0, rtol=1e-6)


def test_minutes_are_the_other_limit(fitted, pool, tmp_path):
    recipe = DepthRecipe(batch=8, minutes=2.5)
    train_depth.train_shapes(tmp_path, pool, recipe)
    ((name, _, _, _, how),) = fitted
    assert (name, how["minutes"]) == ("fit_within", 2.5)


@pytest.mark.parametrize(("name", "outputs", "kept"), [
    ("depth", 1, [[0.0]]),
    ("normals", 3, [[1.0, 2.0, 3.0]]),
])  # fmt: skip
def test_of_four_outputs_each_network_keeps_its_own(
    name, outputs, kept, tmp_path, monkeypatch
):
    built, saved, lines = [], [], []
    params = {"head_4": {"kernel": np.arange(4.0)[None]}, "stem": "shared"}
    state = SimpleNamespace(ema=params)
    monkeypatch.setattr(
        train_depth.pools, "build_pool", lambda *args, **how: built.append((args, how))
    )
    monkeypatch.setattr(train_depth, "train_shapes", lambda *_: state)
    monkeypatch.setattr(train_depth, "save_companion", lambda *args: saved.append(args))
    recipe = DepthRecipe(singles=2, pairs=1, seed=4)
    out = tmp_path / "out"
    train_depth.train_depth(tmp_path, out, recipe, name=name, log=lines.append)
    (((folder,), how),) = built
    assert folder == tmp_path / "pool"
    assert (how["singles"], how["pairs"], how["seed"]) == (2, 1, 4)
    assert how["surfaces"]
    ((where, kind, config, written),) = saved
    assert (where, kind, config.outputs) == (out, name, outputs)
    np.testing.assert_array_equal(written["head_4"]["kernel"], kept)
    assert written["stem"] == "shared"
    assert lines == [f"wrote {out}"]
