"""Editing, from a config to its prior and its beginning: splats, prompts, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_variants import write_source

from sdsjax.cli.checks import resolve
from sdsjax.exports.ply import read_splats, write_splats
from sdsjax.models.loading.weights import kept_or_made
from sdsjax.render.rasterize import rasterize
from sdsjax.runs.run_directory import RunError
from sdsjax.training.build import PRIORS, build
from sdsjax.training.build.input_files import input_files
from sdsjax.training.config import ConfigError
from sdsjax.types import View

SMALL = {
    "prior.name": "gaussian_mixture",
    "resolution": 8,
    "batch_size": 2,
    "representation.count": 6,
    "edit.source_prompt": "a red mug",
}


@pytest.fixture
def said(tmp_path):
    return {**SMALL, "edit.path": str(write_source(tmp_path))}


@pytest.mark.slow
def test_training_begins_from_the_splats_and_compares_with_them(said):
    """The rows of the file, the rest dead; the source's z is what the file shows from
    the view's camera on white, written here by the rasteriser."""
    pieces = build(resolve("edit", said))
    given = read_splats(said["edit.path"])
    params, state = jax.jit(pieces.representation.init)(jax.random.key(5))
    np.testing.assert_array_equal(state.alive, [True] * 4 + [False] * 2)
    np.testing.assert_allclose(params.means[:4], given.means, atol=1e-6)
    np.testing.assert_allclose(params.opacity_logits[:4], 1.0, atol=1e-6)
    cameras = pieces.phases[-1].cameras(jax.random.key(1))
    camera = jax.tree.map(lambda leaf: leaf[1], cameras)
    prior = pieces.source.bind(pieces.source.params)

    @jax.jit
    def both(given, camera):
        shown = rasterize(given, camera, background=jnp.ones(3)).rgb
        return prior.source.latent(View(camera)), 2 * shown - 1

    np.testing.assert_allclose(*both(given, camera), atol=1e-4)
    together = jax.eval_shape(prior.source.latent, View(cameras))
    assert together.shape == (2, 8, 8, 3)
    assert list(input_files(resolve("edit", said))["edit.path"]) == ["source.ply"]


def test_the_prompt_of_a_run_is_read_from_it(said, tmp_path):
    (tmp_path / "config.json").write_text('{"prompt": "a green car"}')
    del said["edit.source_prompt"]
    said["edit.path"] = str(tmp_path)
    assert resolve("edit", said).edit.source_prompt == "a green car"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"edit.path": ""}, "edit.path=RUN"),
        ({"edit.path": "", "edit.source_prompt": ""}, "estimator 'dds' edits"),
        ({"edit.path": "nowhere.ply"}, "does not exist"),
        ({"edit.source_prompt": ""}, "source_prompt is empty"),
        ({"edit.source_prompt": " a blue mug"}, "both 'a blue mug'.*no difference"),
        ({"edit.path": __file__}, "is no PLY file"),
        ({"background": "random"}, "background=white"),
        ({"estimator.name": "ssd", "edit.path": ""}, "edit.path=RUN as well"),
        ({"estimator.name": "pds", "estimator.stride": 0}, "stride"),
        ({"prior.name": "multiview", "edit.source_prompt": "a red elephant"}, "eleph"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_built(change, word, said):
    if change.get("estimator.name") == "ssd":
        change = {**change, "estimator.threshold": 500}
    with pytest.raises(ConfigError, match=word) as caught:
        resolve("edit", {**said, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"representation.count": 3}, "raise it"),
        ({"representation.sh_degree": 1}, "SH degree 0"),
        ({"edit.path": "."}, "run.json"),
    ],
)
def test_what_the_file_holds_must_fit(change, word, said):
    with pytest.raises((ConfigError, RunError), match=word) as caught:
        build(resolve("edit", {**said, **change}))
    assert "\n" not in str(caught.value)


def test_splats_written_by_another_program_begin_at_their_own_degree(said, tmp_path):
    rows = read_splats(said["edit.path"])
    rows = rows._replace(sh=np.concatenate([rows.sh, 0 * rows.sh.repeat(3, 1)], 1))
    said["edit.path"] = str(write_splats(tmp_path / "degree-1.ply", rows))
    pieces = build(resolve("edit", {**said, "representation.sh_degree": 1}))
    begun, _ = jax.eval_shape(pieces.representation.init, jax.random.key(0))
    assert begun.sh.shape == (6, 4, 3)


def test_networks_are_kept_for_two_prompts_alone(said, monkeypatch):
    """A run of one prompt holds no text encoder while the rest is read."""
    kept, own = [], PRIORS["gaussian_mixture"]

    def load(config, sharding=None):
        kept.append(kept_or_made("a network", lambda: len(kept)))
        return own(config, sharding)

    monkeypatch.setitem(PRIORS, "gaussian_mixture", load)
    build(resolve("edit", said))
    assert kept == [0, 0]
    plain = {key: said[key] for key in said if not key.startswith("edit.")}
    for _ in range(2):
        build(resolve("ssd", plain))
    assert kept == [0, 0, 2, 3]
