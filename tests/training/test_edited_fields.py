"""Editing of fields and pictures: what a run begins from, and mistakes."""

import json
import shutil

import jax
import numpy as np
import pytest
from finished_runs import STEP, finished

from sdsjax.cli.checks import resolve
from sdsjax.runs.checkpoints import CheckpointError
from sdsjax.runs.run_directory import RunError
from sdsjax.training.build import build, build_representation
from sdsjax.training.build.input_files import input_files
from sdsjax.training.config import ConfigError
from sdsjax.types import View

COMMON = {"prior.name": "gaussian_mixture", "resolution": 8, "batch_size": 2}
FIELD = {
    **COMMON,
    "representation.levels": 2,
    "representation.log2_size": 6,
    "representation.hidden": 4,
    "representation.coarse": 3,
    "representation.fine": 2,
}


def source(folder, name, said, change=lambda params, state: (params, state)):
    """The directory of a run whose parameters are as they were drawn, or changed."""
    config = resolve(name, {**said, "prompt": "a red mug"})
    representation = build_representation(config, (8, 8, 3))
    pair = change(*jax.jit(representation.init)(jax.random.key(7)))
    return finished(folder, config, *pair), pair


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return source(tmp_path_factory.mktemp("runs") / "field", "nerf", FIELD)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return source(tmp_path_factory.mktemp("runs") / "flat", "ssd:image", COMMON)


def edited(name, run, **change):
    said = FIELD if name == "edit:nerf" else COMMON
    change = {key.replace("__", "."): value for key, value in change.items()}
    path = {"edit.path": str(run), "prompt": "a blue mug"}
    return resolve(name, {**said, **path, **change})


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_a_field_is_gone_on_with_and_compared_with(field):
    """Its own numbers whatever the seed, its own prompt; other points along a ray are
    allowed, and the source's z is what the run's field shows of the view."""
    folder, pair = field
    config = edited("edit:nerf", folder, representation__fine=4)
    assert config.edit.source_prompt == "a red mug"
    assert list(input_files(config)["edit.path"]) == ["finished.json"]
    pieces = build(config)
    same(jax.jit(pieces.representation.init)(jax.random.key(5)), pair)
    cameras = pieces.phases[-1].cameras(jax.random.key(1))
    prior = pieces.source.bind(pieces.source.params)
    camera = jax.tree.map(lambda leaf: leaf[1], cameras)

    @jax.jit
    def both(params, state):
        shown = pieces.representation.render(params, state, camera, jax.random.key(0))
        return prior.source.latent(View(camera)), 2 * shown.rgb - 1

    np.testing.assert_allclose(*both(*pair), atol=1e-5)
    group = jax.eval_shape(prior.source.latent, View(cameras))
    assert group.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("space", ["image", "latent"])
def test_a_picture_is_gone_on_with_and_compared_with(space, tmp_path):
    said = {**COMMON, "representation.space": space}
    folder, pair = source(tmp_path / "run", "ssd:image", said)
    pieces = build(edited("edit:image", folder, representation__space=space))
    same(jax.jit(pieces.representation.init)(jax.random.key(5)), pair)
    prior = pieces.source.bind(pieces.source.params)

    @jax.jit
    def shown(key):
        cameras = pieces.phases[-1].cameras(key)
        return prior.source.latent(View(jax.tree.map(lambda leaf: leaf[0], cameras)))

    z, pixels = shown(jax.random.key(1)), np.asarray(pair[0].pixels)
    expected = pixels if space == "latent" else 2 * np.clip(pixels, 0, 1) - 1
    np.testing.assert_allclose(z, expected, atol=1e-6)


def test_the_first_of_several_particles_is_edited(tmp_path):
    def twice(params, state):
        pair = jax.tree.map(np.asarray, (params, state))
        return jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1]), pair)

    folder, (params, _) = source(tmp_path / "run", "ssd:image", COMMON, twice)
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "particles": 2}))
    pieces = build(edited("edit:image", folder))
    begun, _ = jax.jit(pieces.representation.init)(jax.random.key(5))
    np.testing.assert_array_equal(begun.pixels, params.pixels[0])


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("edit", {}, "'nerf'.*'gaussians'.*--config=edit:nerf$"),
        ("edit:image", {}, "'nerf'.*'image'.*--config=edit:nerf$"),
        (
            "edit:nerf",
            {"representation__levels": 3, "representation__activation": "exp"},
            "levels=2 --config.representation.activation=softplus$",
        ),
        ("edit:nerf", {"representation__blob_radius": 0.4}, "blob_radius=0.5$"),
        ("edit:nerf", {"representation__occupancy": 8}, "occupancy=0$"),
        ("edit:nerf", {"representation__band_first": 1}, "band_first=0$"),
        ("edit:nerf", {"background": "random"}, "background=white"),
        ("edit:nerf", {"prompt": "a red mug"}, "no difference"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_built(name, change, word, field):
    with pytest.raises(ConfigError, match=word) as caught:
        edited(name, field[0], **change)
    assert "\n" not in str(caught.value)


def test_a_file_of_splats_is_no_field(tmp_path):
    path = tmp_path / "splats.ply"
    path.write_text("")
    with pytest.raises(ConfigError, match=r"holds splats.*run's directory"):
        edited("edit:nerf", path, edit__source_prompt="a red mug")


def hide_a_level(params, state):
    return params, state._replace(level_weights=np.array([1.0, 0.5], "f4"))


def test_what_the_run_holds_must_fit(field, picture, tmp_path):
    folder, _ = source(tmp_path / "band", "nerf", FIELD, hide_a_level)
    for run, name, change, word in (
        (folder, "edit:nerf", {}, "1 of 2 levels: train it longer"),
        (picture[0], "edit:image", {"resolution": 16}, r"\(8, 8, 3\).*resolution"),
    ):
        with pytest.raises(ConfigError, match=word) as caught:
            build(edited(name, run, **change))
        assert "\n" not in str(caught.value)


def test_a_run_that_is_not_whole_is_one_line(field, tmp_path):
    def broken(spoil):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(field[0], folder)
        spoil(folder)
        with pytest.raises((RunError, CheckpointError)) as caught:
            build(edited("edit:nerf", folder, edit__source_prompt="a red mug"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "not finished" in broken(lambda f: (f / "finished.json").unlink())
    assert "no run.json" in broken(lambda f: (f / "run.json").unlink())
    assert "config.json" in broken(lambda f: (f / "config.json").unlink())
    step = f"checkpoint {STEP}"
    assert step in broken(lambda f: shutil.rmtree(f / "checkpoints"))
