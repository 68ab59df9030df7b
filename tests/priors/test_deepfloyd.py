"""DeepFloyd IF as a prior on a small random folder: branches, pixels, errors."""

import gc
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera

from sdsjax.cli.budget import budget
from sdsjax.cli.checks import resolve
from sdsjax.diffusion import NoiseSchedule, prompts
from sdsjax.main import cli
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.text_encoders.t5_tokenizer import T5Tokenizer
from sdsjax.priors import deepfloyd
from sdsjax.training.build import build
from sdsjax.training.config import ConfigError
from sdsjax.types import View

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "models"))

import fixed_deepfloyd as fixed  # noqa: E402
from if_folders import write_if_folder, write_scheduler  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_if_folder(tmp_path_factory.mktemp("if"))


@pytest.fixture(scope="module")
def source(folder):
    return deepfloyd.load(str(folder), "A Red Cat ", "house")


@pytest.fixture(scope="module")
def noise(source):
    """The prior's noise, compiled once for three branches."""
    branches = ("cond", "uncond", "negative")

    def run(params, z_t, t, view):
        return source.bind(params).noise(z_t, t, view, branches=branches)

    return jax.jit(run)


Z_T, T = jax.random.normal(jax.random.key(0), (8, 8, 3)), jnp.int32(400)


@pytest.mark.slow
def test_branches_are_separate_calls_of_the_network(folder, source, noise):
    found = noise(source.params, Z_T, T, None)
    encoder, unet = (hub.load_component(folder, n) for n in ("text_encoder", "unet"))
    tokenizer = T5Tokenizer.from_folder(folder / "tokenizer")
    encode, denoise = jax.jit(encoder.module.apply), jax.jit(unet.module.apply)
    for got, text in zip(found, ("a red cat", "", "house"), strict=True):
        ids, mask = tokenizer([text])
        states = encode({"params": encoder.params}, ids, mask)
        out = denoise({"params": unet.params}, Z_T[None], T[None], states)
        assert out.shape == (1, 8, 8, 6)
        np.testing.assert_allclose(got, out[0, ..., :3], rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(found.cond - found.uncond).max()) > 1e-3


@pytest.mark.slow
def test_branches_run_as_one_batch(source):
    """Two branches trace the UNet once; one branch costs half."""
    prior = source.bind(source.params)

    def traced(*branches):
        run = lambda z, t: prior.noise(z, t, None, branches=branches)  # noqa: E731
        return jax.jit(run).trace(Z_T, T)

    alone, both = traced("cond"), traced("cond", "uncond")
    one, two = (t.lower().cost_analysis()["flops"] for t in (alone, both))
    assert two == pytest.approx(2 * one, rel=0.02)
    kernel = "conv_general_dilated"
    assert str(both.jaxpr).count(kernel) == str(alone.jaxpr).count(kernel) > 0


@pytest.mark.slow
def test_view_words_follow_the_camera(source, noise):
    rows = source.params.states.cond
    assert rows.shape == (6, 77, 12)
    alone = noise(source.params, Z_T, T, None)
    for azimuth, row in [(0.0, prompts.FRONT), (90.0, prompts.LEFT)]:
        got = noise(source.params, Z_T, T, View(orbit_camera(azimuth, 0.0)))
        swapped = source.params.states._replace(
            cond=rows.at[prompts.ANY].set(rows[row])
        )
        want = noise(source.params._replace(states=swapped), Z_T, T, None)
        np.testing.assert_allclose(got.cond, want.cond, rtol=1e-5, atol=1e-5)
        assert float(jnp.abs(got.cond - alone.cond).max()) > 1e-4
        np.testing.assert_allclose(got.uncond, alone.uncond, rtol=1e-5, atol=1e-5)


def test_z_is_the_image_at_the_networks_size(source):
    assert source.image_shape == (8, 8, 3)
    prior = source.bind(source.params)
    x = jax.random.uniform(jax.random.key(1), (8, 8, 3), minval=-1.0)
    assert prior.encode(x) is x
    assert prior.decode(x) is x
    # a larger image is averaged: a checkerboard of single pixels becomes grey
    board = np.where((np.indices((32, 32)).sum(0) % 2)[..., None] == 0, 1.0, -1.0)
    board = np.broadcast_to(board, (32, 32, 3)).astype(np.float32)
    small = np.asarray(jax.jit(prior.encode)(board))
    assert small.shape == (8, 8, 3)
    assert np.abs(small[1:-1, 1:-1]).max() < 1e-5
    slope = jax.jit(jax.grad(lambda x: prior.encode(x).sum()))(np.ones((16, 16, 3)))
    np.testing.assert_allclose(slope.sum(), 8 * 8 * 3, rtol=1e-5)


def test_the_schedule_is_the_files(source):
    schedule = source.bind(source.params).schedule
    cosine = NoiseSchedule.squaredcos_cap_v2()
    np.testing.assert_array_equal(schedule.alphas, cosine.alphas)


@pytest.mark.slow
def test_parameters_carry_no_gradient(source):
    def through(unet):
        prior = source.bind(source.params._replace(unet=unet))
        return jnp.sum(prior.noise(Z_T, T, None).cond ** 2)

    slope = jax.eval_shape(jax.grad(through), source.params.unet)
    assert jax.tree.structure(slope) == jax.tree.structure(source.params.unet)
    text = str(jax.make_jaxpr(jax.grad(through))(source.params.unet))
    # nothing is left to pull back through: no convolution but the forward pass's
    forward = str(jax.make_jaxpr(through)(source.params.unet))
    kernel = "conv_general_dilated"
    assert text.count(kernel) == forward.count(kernel)


@pytest.mark.slow
def test_the_text_encoder_is_freed(folder):
    def is_wide(array):  # T5's feed-forward: nothing else has its width
        return fixed.T5["d_ff"] in array.shape

    gc.collect()
    before = sum(map(is_wide, jax.live_arrays()))
    source = deepfloyd.load(str(folder), "a cat")
    gc.collect()
    assert sum(map(is_wide, jax.live_arrays())) == before
    assert source.params.states.uncond.shape == (77, 12)


def test_bfloat16_answers_in_the_type_of_z(folder):
    source = deepfloyd.load(str(folder), "a cat", dtype=jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves(source.params)} == {jnp.dtype("bfloat16")}
    run = jax.eval_shape(lambda p: source.bind(p).noise(Z_T, T, None), source.params)
    assert run.cond.dtype == jnp.float32


TINY = {
    "prompt": "a zebra in a spacesuit",
    "steps": 2,
    "batch_size": 1,
    "resolution": 16,
    "representation.count": 30,
    "diagnostics.every": 1,
    "exports.turntable_frames": 2,
    "exports.mesh_resolution": 8,
}


def test_a_config_names_it(folder):
    overrides = {**TINY, "prior.folder": str(folder)}
    config = resolve("sds:if64", overrides)
    assert build(config).source.image_shape == (8, 8, 3)
    published = resolve("sds:if64")
    assert (published.prior.name, published.resolution) == ("deepfloyd", 64)
    with pytest.raises(ConfigError, match=r"folder=DeepFloyd/IF-I-XL-v1\.0"):
        resolve("sds", {"prior.name": "deepfloyd"})
    with pytest.raises(ConfigError, match="does not exist"):
        resolve("sds", {**overrides, "prior.folder": "/no/such"})


@pytest.mark.slow
def test_the_whole_job_from_the_command_line(folder, tmp_path, capsys):
    overrides = {**TINY, "prior.folder": str(folder)}
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    assert cli(["--config=sds:if64", *flags, "--dry_run"]) == 0
    assert "prior" in capsys.readouterr().out
    work = tmp_path / "run"
    assert cli(["--config=sds:if64", *flags, f"--workdir={work}"]) == 0
    assert (work / "report.html").stat().st_size > 1000


def test_the_budget_of_weights_that_are_not_here(monkeypatch):
    monkeypatch.setattr(hub, "load_component", None)
    lines = "\n".join(budget(resolve("sds:if64")))
    assert "prior 4.3 G" in lines
    assert "5.76 TFLOP a view" in lines
    assert "DeepFloyd IF-I-XL" in lines


def test_an_image_size_the_network_cannot_halve_is_refused(folder):
    with pytest.raises(ValueError, match=r"image_size = 15 must be a multiple of 2"):
        deepfloyd.load(str(folder), "a cat", image_size=15)


@pytest.mark.parametrize(
    ("component", "config", "message"),
    [
        (
            "unet",
            {**fixed.UNET, "encoder_hid_dim": 16},
            "encoder_hid_dim = 16 does not",
        ),
        (
            "unet",
            {**fixed.UNET, "in_channels": 6, "out_channels": 6},
            "in_channels = 6",
        ),
        ("unet", {**fixed.UNET, "out_channels": 3}, "variance_type = 'learned_range'"),
        ("text_encoder", {**fixed.T5, "vocab_size": 50}, "tokenizer has .* tokens"),
        ("text_encoder", {"model_type": "clip_text_model"}, "a T5 text encoder"),
        ("scheduler", {"variance_type": "fixed_large"}, "does not fit the 6 out"),
        ("scheduler", {"prediction_type": "v_prediction"}, "expected 'epsilon'"),
    ],
)
def test_components_that_do_not_belong_together(
    folder, tmp_path, component, config, message
):
    for name in deepfloyd.FOLDERS:
        if name != component:
            (tmp_path / name).symlink_to(folder / name)
    if component == "scheduler":
        write_scheduler(tmp_path, **config)
    else:
        (tmp_path / component).mkdir()
        (tmp_path / component / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoaderError, match=message) as caught:
        deepfloyd.load(str(tmp_path), "a cat")
    assert "\n" not in str(caught.value)


def test_a_folder_of_stable_diffusion_is_refused():
    with pytest.raises(LoaderError, match="not DeepFloyd IF's first stage"):
        deepfloyd.load("toybox-sd", "a red mug")
