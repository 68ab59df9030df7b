"""One .safetensors file as `prior.folder`: the config settles, a prior is built."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from sdsjax.cli.checks import resolve
from sdsjax.main import cli
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.priors import multiview, stable_diffusion
from sdsjax.training.build.input_files import input_files
from sdsjax.training.config import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import sdxl_folders as folders
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


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", ["MVDream", *(pytest.param(kind, marks=SLOW) for kind in ("2.x", "XL"))]
)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=SLOW)])
def test_it_is_a_prior(kinds, words, kind, compiled):
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

    run = partial(jax.eval_shape, noise)
    if compiled:
        run = jax.jit(noise, compiler_options=HURRY)
    e = run(source.params, z)
    assert e.cond.shape == e.uncond.shape == shape
    if not compiled:
        return
    assert jnp.isfinite(e.cond).all()
    assert jnp.abs(e.cond - e.uncond).max() > 1e-5


def test_another_vae_than_the_files(kinds, words, tmp_path):
    folders.write_component(tmp_path, "vae", scaling_factor=0.5)
    given = {"image_size": 16, "tokenizer_folder": words, "vae_folder": str(tmp_path)}
    source = stable_diffusion.load(kinds["XL"], "a red mug", **given)
    own = hub.load_component(tmp_path, "vae").params
    jax.tree.map(np.testing.assert_array_equal, source.params.vae, own)
    folders.write_component(tmp_path, "vae", latent_channels=8)
    with pytest.raises(LoaderError, match="in_channels = 4 does not fit its VAE"):
        stable_diffusion.load(kinds["XL"], "a red mug", **given)


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


def test_loras_are_said_as_pairs(kinds, words, tmp_path, capsys):
    """From the command line to the kernels; a wrong entry is one line."""
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    lora = tmp_path / "lora.safetensors"
    down, up = np.ones((1, 64), "f4"), np.ones((64, 1), "f4")
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, lora)
    config = resolve(
        "ssd",
        {
            "prior.folder": kinds["1.x"],
            "prior.tokenizer_folder": words,
            "prior.loras": f"(({str(lora)!r}, 0.25),)",
        },
    )
    assert config.prior.loras == ((str(lora), 0.25),)
    assert list(input_files(config)["prior.loras"]) == [str(lora)]
    plain, merged = (
        stable_diffusion.load(
            kinds["1.x"], "a red mug", tokenizer_folder=words, loras=loras
        ).params.unet
        for loras in ((), config.prior.loras)
    )
    plain, merged = jax.device_get((plain, merged))
    differ = jax.tree.map(lambda a, b: abs(b - a).max(), plain, merged)
    assert max(jax.tree.leaves(differ)) == pytest.approx(0.25, abs=1e-6)
    assert cli(["--config=ssd:toybox", "--config.prior.loras=('x',)"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected pairs of a file and the weight" in error
