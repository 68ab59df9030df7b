"""The recipes of toybox-dpt, toybox-normals and toybox-clip, at sizes of seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.models.loading import companions
from sdsjax.models.vision.clip_scorer import clip_distance
from sdsjax.models.vision.dpt import DPT, unit
from sdsjax.toybox.__main__ import main
from sdsjax.toybox.scoring import measure_companions as measures
from sdsjax.toybox.training import fit as fits
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training import train_clip, train_depth
from sdsjax.toybox.training.fit import flat

SIZE = 16
NETWORK = train_depth.NETWORK._replace(
    hidden=8, mlp=8, layers=1, heads=2, image_size=SIZE, patch=4, taps=(0,),
    factors=(1,), necks=(4,), fusion=4, stem=None,
)  # fmt: skip
DEPTH = train_depth.DepthRecipe(steps=3, batch=4)
CLIP = train_clip.ClipRecipe(steps=3, batch=6)
CLIP_CONFIG = train_clip.clip_config


@pytest.fixture(scope="module")
def pool():
    """Noise in place of renders: three single objects and two pairs, two views each."""
    rng = np.random.default_rng(0)
    geometry = np.repeat([0, 1, 2, 30, 31], 2).astype(np.int32)
    layers, surface = (
        rng.integers(0, 256, (10, SIZE, SIZE, channels), dtype=np.uint8)
        for channels in (6, 4)
    )
    return pools.Pool(layers, geometry, np.arange(10) % 5, surface)


def one_layer(tokenizer):
    config = CLIP_CONFIG(tokenizer)
    text, vision = config.text._replace(layers=1), config.vision._replace(layers=1)
    return config._replace(text=text, vision=vision)


def halving(variables, x, method):
    """Stands for an AutoencoderKL, whose compilation takes longer than these tests."""
    return (0.5 * x, None) if method == "encode" else 2.0 * x


@pytest.fixture
def small(monkeypatch):
    frozen = {"vae": {}, "scaling_factor": jnp.float32(2.0)}
    monkeypatch.setattr(train_depth, "frozen_vae", lambda recipe: (halving, frozen))
    monkeypatch.setattr(train_depth, "NETWORK", NETWORK)
    monkeypatch.setattr(train_clip, "SIDE", SIZE)
    monkeypatch.setattr(train_clip, "clip_config", one_layer)
    monkeypatch.setattr(fits, "SAVE_EVERY", 0.0)


class Stop(Exception):
    """Stands in for a kill."""


TRAININGS = {
    "shapes": lambda *args: train_depth.train_shapes(*args, DEPTH, lambda line: None),
    "clip": lambda *args: train_clip.train_scorer(*args, CLIP, lambda line: None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_what_is_trained_is_loaded_as_saved(name, small, pool, tmp_path):
    state = TRAININGS[name](tmp_path / "work", pool)
    assert int(state.step) == 3
    loaded_as_saved(name, state.ema, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_stopped_training_ends_bit_identical(
    name, small, pool, tmp_path, monkeypatch
):
    train, draw, left = TRAININGS[name], pools.draw, 2
    whole = train(tmp_path / "whole", pool)

    def stopping(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop
        return draw(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pools, "draw", stopping)
        with pytest.raises(Stop):
            train(tmp_path / "parts", pool)
    parts = train(tmp_path / "parts", pool)
    for key, value in flat(whole).items():
        np.testing.assert_array_equal(value, flat(parts)[key], err_msg=key)


def loaded_as_saved(name, params, out):
    half = jax.tree.map(lambda p: np.asarray(p, np.float16), params)
    if name == "clip":
        train_clip.write_scorer(out, params)
        network, tokenizer = companions.load_clip_scorer(out)
        jax.tree.map(np.testing.assert_array_equal, network.params, half)
        rgb = jax.random.uniform(jax.random.key(0), (2, SIZE, SIZE, 3))
        texts = ["a red ball", "a blue cube, back view", "a blue cube"]
        distance = clip_distance(network, tokenizer)(rgb, texts)
        images, words = measures.embedders(network, tokenizer)
        want = 1.0 - images(2 * rgb - 1) @ words(texts).T
        np.testing.assert_allclose(distance, want, atol=1e-5)
        return
    for head in ("depth", "normals"):
        train_depth.write_shapes(out / head, params, head)
        network = companions.load_companion(out / head, head)
        want = train_depth.head_of(half, head)
        jax.tree.map(np.testing.assert_array_equal, network.params, want)


def test_the_two_heads_are_the_four_outputs(small):
    module = DPT(NETWORK._replace(outputs=4))
    shapes = jax.eval_shape(lambda: train_depth._begin(module, 0, SIZE))
    # as wide as what they are summed over: what comes out is of order 1
    deviation = lambda s: np.prod(s.shape[:-1]) ** -0.5  # noqa: E731
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda s: draw(0, deviation(s), s.shape).astype("f4"), shapes)
    x = np.float32(draw(size=(2, SIZE, SIZE, 3)))

    def alone(name, outputs):
        network = DPT(NETWORK._replace(outputs=outputs))
        return network.apply({"params": train_depth.head_of(params, name)}, x)

    depth, normals = jax.jit(lambda: (alone("depth", 1), alone("normals", 3)))()
    raw = jax.jit(lambda params: train_depth.raw_outputs(module, params, x))(params)
    raw = np.asarray(raw)
    np.testing.assert_allclose(depth, np.maximum(raw[..., 0], 0), atol=1e-5)
    want = jax.jit(unit)(2 * np.clip(raw[..., 1:], 0, 1) - 1)
    np.testing.assert_allclose(normals, want, atol=1e-5)


def test_the_truth_costs_nothing_and_clipped_outputs_still_learn():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(2, 8, 8, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    covered = rng.random((2, 8, 8, 1)) < 0.5
    surface = np.concatenate([rng.random((2, 8, 8, 1)), 0.5 + 0.5 * normal], -1)
    surface = np.where(covered, surface, 0.0).astype(np.float32)
    loss = jax.jit(
        jax.value_and_grad(lambda raw: train_depth.shape_loss(raw, surface)[0])
    )
    assert abs(loss(surface)[0]) < 1e-5
    # what lies beyond the clips, and what the background's relu hides
    off = surface - np.float32([1.0, 2.0, 2.0, 2.0])
    raw = np.where(covered, off, np.float32([-1.0, 9.0, 9.0, 9.0]))
    slope = np.where(covered, loss(raw)[1], 0.0)
    assert (np.abs(slope[..., 1:]).min(-1) > 0)[covered[..., 0]].all()
    # as one: the differences between neighbours do not feel a common shift
    np.testing.assert_allclose(slope[..., 0].sum(), -4.0, rtol=1e-5)
    np.testing.assert_array_equal(np.where(covered, 0.0, loss(raw)[1]), 0.0)


def test_the_contrast_counts_its_wrong_texts():
    """Equal cosines: the loss is the mean log of how many there are to choose from."""
    true, equal = np.zeros((4, 16), bool), np.zeros((4, 16), np.float32)
    contrast_loss = jax.jit(train_clip.contrast_loss)
    loss, parts = contrast_loss(equal, np.float32(2.0), true)
    np.testing.assert_allclose(loss, 0.5 * (np.log(16) + np.log(4)), rtol=1e-6)
    np.testing.assert_allclose(parts["scale"], np.exp(2.0), rtol=1e-6)
    true[:, 8:] = True
    np.fill_diagonal(true, True)
    loss, _ = contrast_loss(equal, np.float32(9.0), true)
    np.testing.assert_allclose(loss, 0.5 * (np.log(8) + np.log(4)), rtol=1e-6)


def test_depth_scores_of_known_errors():
    rng = np.random.default_rng(0)
    surface = rng.uniform(0.2, 0.8, (3, 8, 8, 4))
    mask = rng.random((3, 8, 8)) < 0.7
    true = surface[..., 0]
    for guess in (true, 0.1 + 0.5 * true):
        scores = measures.depth_scores(guess, surface, mask)
        np.testing.assert_allclose(scores["correlation"], 1.0, atol=1e-9)
        np.testing.assert_allclose(scores["aligned"], 0.0, atol=1e-9)
        assert (scores["abs_rel"] < 1e-9).all() == (guess is true)
    flat_guess = measures.depth_scores(np.full_like(true, 0.5), surface, mask)
    assert (flat_guess["correlation"] == 0).all()
    depth = 1 / ((1 - true) / pools.FAR + true / pools.NEAR)
    guess = 1 / (0.5 / pools.FAR + 0.5 / pools.NEAR)
    want = [np.mean(np.abs(guess - d[m]) / d[m]) for d, m in zip(depth, mask)]
    np.testing.assert_allclose(flat_guess["abs_rel"], want, rtol=1e-6)


def test_normal_degrees_of_a_known_turn():
    surface = np.zeros((1, 4, 4, 4))
    surface[..., 1:] = (0.5, 0.5, 0.0)  # facing the camera
    turned = np.broadcast_to((np.sin(0.3), 0.0, -np.cos(0.3)), (1, 4, 4, 3))
    mask = np.ones((1, 4, 4), bool)
    degrees = measures.normal_degrees(turned, surface, mask)
    np.testing.assert_allclose(degrees, np.degrees(0.3), rtol=1e-6)


def test_a_flag_of_another_network_is_refused(tmp_path, capsys):
    folders = ["--work", str(tmp_path), "--out", str(tmp_path)]
    assert main(["train", "clip", *folders, "--vae_steps", "3"]) == 2
    assert "train clip takes no --vae_steps" in capsys.readouterr().err
    assert main(["train", "depth", *folders, "--batch", "6", "--singles", "0"]) == 2
    assert "multiple of 4" in capsys.readouterr().err


def test_a_pool_without_surfaces_is_refused(pool, tmp_path):
    with pytest.raises(ValueError, match="surfaces=True"):
        train_depth.train_shapes(tmp_path, pool._replace(surface=None), DEPTH)
