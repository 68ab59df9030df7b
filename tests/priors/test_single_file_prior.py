"""One .safetensors file as `prior.folder`: the config settles, a prior is built."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.cli.checks import resolve
from sdsjax.main import cli
from sdsjax.models.loading.errors import LoaderError
from sdsjax.priors import multiview, stable_diffusion
from sdsjax.training.build.input_files import input_files
from sdsjax.training.config import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import single_files as files

HURRY = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return str(files.write_vocabulary(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    root = tmp_path_factory.mktemp("single")
    return {
        kind: str(files.write_single_file(root / f"{kind}.safetensors", kind))
        for kind in files.LAYOUTS
    }


@pytest.mark.parametrize("kind", ["2.x", "XL", "MVDream"])
def test_it_is_a_prior(kinds, words, kind):
    load = multiview.load if kind == "MVDream" else stable_diffusion.load
    said = {"prediction_type": "v_prediction"} if kind == "2.x" else {}
    group = {"group": 2} if kind == "MVDream" else {}
    source = load(
        kinds[kind], "a red mug", image_size=16, tokenizer_folder=words, **said, **group
    )
    shape = (2, 8, 8, 4) if group else (8, 8, 4)
    z = np.random.default_rng(0).normal(size=shape).astype("f4")

    def noise(params, z):
        return source.bind(params).noise(z, jnp.int32(300), None)

    e = jax.jit(noise, compiler_options=HURRY)(source.params, z)
    assert e.cond.shape == shape
    assert jnp.isfinite(e.cond).all()
    assert jnp.abs(e.cond - e.uncond).max() > 1e-5


def test_the_kind_of_prior_follows_from_the_file(kinds, words):
    given = {"prior.tokenizer_folder": words}
    for kind, name in (("XL", "stable_diffusion"), ("MVDream", "multiview")):
        config = resolve("ssd", {"prior.folder": kinds[kind], **given})
        assert config.prior.name == name
    found = input_files(config)
    assert list(found["prior.folder"]) == ["MVDream.safetensors"]
    assert {"vocab.json", "merges.txt"} <= set(found["prior.tokenizer_folder"])


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path, capsys):
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"x")
    work = tmp_path / "run"
    flags = [f"--config.prior.folder={pickle}", f"--workdir={work}"]
    assert cli(["--config=ssd:toybox", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a pickle, which can run any code" in error
    assert "weights_only=True" in error
    assert not work.exists()


def test_what_is_missing_is_said_before_anything_is_written(
    kinds, words, tmp_path, capsys
):
    work = tmp_path / "run"
    flags = [f"--config.prior.folder={kinds['2.x']}", f"--workdir={work}"]
    for more, said in (
        ([], "set prior.prediction_type to epsilon"),
        (["--config.prior.prediction_type=epsilon"], "set prior.tokenizer_folder"),
    ):
        assert cli(["--config=ssd:toybox", *flags, *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert said in error
        assert not work.exists()


def test_only_the_prior_itself_may_be_a_file(kinds, words):
    given = {"prior.folder": kinds["1.x"], "prior.tokenizer_folder": words}
    for key in ("adapter_folder", "depth_folder"):
        with pytest.raises(ConfigError, match=f"prior.{key} .* is a single file: pass"):
            resolve("vsd:toybox", {**given, f"prior.{key}": kinds["1.x"]})
    for key, value in (("tokenizer_folder", words), ("prediction_type", "epsilon")):
        with pytest.raises(LoaderError, match="but toybox-sd is no single file"):
            stable_diffusion.load("toybox-sd", "a red mug", **{key: value})
