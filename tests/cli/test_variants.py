"""Every config and variant takes training steps, whole or in its parts, on a
random-weight folder in Stable Diffusion's layout at a small resolution."""

import json
import re
import sys
from functools import partial
from pathlib import Path

import jax
import pytest
from tiny_variants import IN_PARTS, OF_NO_STEP, TINY, tiny, write_random_folder

from sdsjax.cli.checks import resolve
from sdsjax.cli.config_files import config_folder, config_names, load, read_module
from sdsjax.main import cli
from sdsjax.training.build import build
from sdsjax.training.config import ConfigError
from sdsjax.training.train_step import init_state, make_train_step

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from sd3_folders import write_sd3_folder
from sdxl_folders import write_sdxl_folder

# What is left out differs in the estimator alone, whose contract is tested by itself.
VARIANTS = [
    f"{stem}:{variant}"
    for stem in config_names()
    for variant in read_module(config_folder() / f"{stem}.py").VARIANTS
    if variant != "if64"  # of another folder: priors/test_deepfloyd runs it
    # as :toybox, and slower
    if not variant.endswith("sd21") or stem in ("ssd", "sds", "vsd", "mvdream")
    if variant not in ("sdxl", "sd3")  # sds runs whole on each, below
    if f"{stem}:{variant}" not in IN_PARTS
]


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory):
    return write_random_folder(tmp_path_factory.mktemp("random-sd"))


@pytest.fixture(scope="module")
def multiview_folder(tmp_path_factory):
    """MVDream's kind of network: no rays, no code."""
    return write_random_folder(tmp_path_factory.mktemp("random-mv"), multiview=True)


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory):
    return write_sdxl_folder(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def sd3_folder(tmp_path_factory):
    return write_sd3_folder(tmp_path_factory.mktemp("sd3"))


def compiled(function, *arguments):
    """Compiled in a hurry: each function runs once."""
    options = {"xla_backend_optimization_level": 0}
    return function.lower(*arguments).compile(compiler_options=options)(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_of_every_phase(name, request):
    multiview = load(name).prior.name == "multiview"
    kind = "multiview_folder" if multiview else "random_folder"
    kind = "sd3_folder" if name.endswith(":flow") else kind
    config = resolve(name, tiny(name, request.getfixturevalue(kind)))
    pieces = build(config)
    assert pieces.source.image_shape == (16, 16, 3)
    assert len(pieces.phases) == 1 + config.camera.first_steps
    parts = (pieces.source, pieces.representation, pieces.estimator, pieces.optimizer)
    key, prior_params = jax.random.key(0), pieces.source.params
    start = partial(init_state, *parts, pieces.phases[0].cameras)
    state = compiled(jax.jit(start), prior_params, key)
    before = jax.device_get(state.params)
    # phases differ in their cameras: the small networks' variants try each
    small = name.split(":")[1] in ("toybox", "image", "nerf")
    for phase in pieces.phases if small else pieces.phases[-1:]:
        total = config.steps
        step = make_train_step(*parts, pieces.sampler, phase.cameras, total=total)
        state, metrics = compiled(step, state, prior_params, key)
        assert bool(metrics["finite"])
        assert float(metrics["grad_z"]) > 0
    after = jax.device_get(state.params)
    moved = jax.tree.map(lambda a, b: (a != b).any(), before, after)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", IN_PARTS)
def test_what_is_left_out_is_shown_in_parts(name):
    shown = [load(other).to_dict() for other in IN_PARTS[name]]
    for section, value in load(name).items():
        value = value.to_dict() if hasattr(value, "to_dict") else value
        if section not in OF_NO_STEP:
            assert any(other[section] == value for other in shown), section
    assert set(IN_PARTS[name]) <= {*VARIANTS, "sds:sdxl", "sds:sd3"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd:sd21", "ssd:image"])
def test_the_whole_job_from_the_command_line(name, random_folder, tmp_path):
    run_whole_job(name, random_folder, tmp_path / "run")


@pytest.mark.slow
def test_the_whole_job_on_sdxl(sdxl_folder, tmp_path):
    run_whole_job("sds:sdxl", sdxl_folder, tmp_path / "run")


@pytest.mark.slow
def test_the_whole_job_on_sd3(sd3_folder, tmp_path):
    """A kind is found by the folder: `ssd` reads it as stable_diffusion3 too."""
    assert resolve("ssd", {"prior.folder": str(sd3_folder)}).prior.name == (
        "stable_diffusion3"
    )
    run_whole_job("sds:sd3", sd3_folder, tmp_path / "run")


def run_whole_job(name, folder, work):
    overrides = tiny(name, folder)
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    assert cli([f"--config={name}", *flags, f"--workdir={work}"]) == 0
    assert (work / "report.html").stat().st_size > 1000
    assert (work / "finished.json").is_file()
    rows = map(json.loads, (work / "history.jsonl").read_text().splitlines())
    assert all(row["grad_z"] > 0 for row in rows)
    assert cli([f"--workdir={work}"]) == 0


def test_damaged_weights_are_refused_before_a_directory_is_made(
    random_folder, tmp_path, capsys
):
    copy = tmp_path / "copy"
    for path in random_folder.rglob("*"):
        target = copy / path.relative_to(random_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    broken = copy / "unet" / "diffusion_pytorch_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    flags = [f"--config.{key}={value}" for key, value in tiny("ssd", copy).items()]
    work = tmp_path / "run"
    assert cli(["--config=ssd", *flags, f"--workdir={work}"]) == 2
    out = capsys.readouterr()
    assert out.err.count("\n") == 1
    assert "diffusion_pytorch_model.safetensors" in out.err
    assert not work.exists()


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        resolve("ssd", {"prior.folder": str(tmp_path)})


def mv_variants():
    names = [*("ssd", "sds", "vsd", "hifa", "dreamgaussian", "gsgen", "stabledreamer")]
    return [f"{name}:mv" for name in names] + ["mvdream:toybox"]


@pytest.mark.parametrize("name", mv_variants())
def test_multiview_variants_are_their_toybox_in_whole_groups(name):
    config = load(name)
    assert (config.prior.name, config.prior.folder) == ("multiview", "toybox-mv")
    assert resolve(name).prior.group == 4
    assert config.batch_size % 4 == config.camera.first_batch_size % 4 == 0
    if name.endswith(":mv"):
        toybox = load(name.replace(":mv", ":toybox"))
        assert config.estimator == toybox.estimator
        assert config.representation == toybox.representation
        assert toybox.batch_size <= config.batch_size < toybox.batch_size + 4


def test_mvdream_has_its_authors_settings():
    config = load("mvdream:sd21")
    said, camera = config.estimator, config.camera
    assert (said.name, said.weighting) == ("denoised_l2", "one")
    assert (said.guidance_scale, said.guidance_rescale) == (50.0, 0.5)
    assert said.away_from == "negative"
    assert config.negative_prompt.startswith("ugly, bad anatomy")
    assert config.timesteps.to_dict() == {
        "name": "falling_window", "t_min": 20, "t_max": 980, "t_end": 500, "until": 0.8,
    }  # fmt: skip
    assert (config.steps, config.batch_size, config.resolution) == (10_000, 4, 256)
    first = camera.first_steps, camera.first_batch_size, camera.first_resolution
    assert first == (5000, 8, 64)
    assert (camera.elevation, camera.fov) == ((0, 30), (15, 60))
    assert (camera.distance, camera.relative_distance) == ((0.8, 1.0), True)
    assert config.prior.folder == "ashawkey/mvdream-sd2.1-diffusers"


def test_a_multiview_name_that_is_not_there_is_one_line(multiview_folder):
    missing = {"prior.folder": "toybox-mv-small"}
    with pytest.raises(ConfigError, match="does not exist: pass a folder") as caught:
        resolve("ssd:mv", missing)
    assert "toybox-sd" not in str(caught.value)  # no multi-view prior
    folder = {"prior.folder": str(multiview_folder), **TINY}
    with pytest.raises(ConfigError, match="batch_size = 1 is no multiple of the 4"):
        build(resolve("ssd:mv", {**folder, "prior.group": 4}))
    for key, value in (("adapter_folder", str(multiview_folder)), ("perp_neg", True)):
        with pytest.raises(ConfigError, match=f"prior.{key} = .* leave it out"):
            build(resolve("ssd:mv", {**folder, "batch_size": 4, f"prior.{key}": value}))


@pytest.mark.slow
def test_a_dry_run_counts_a_views_share_of_its_group(
    random_folder, multiview_folder, capsys
):
    """A group of one costs what the plain network does, and a group of 4 not 4 times
    as much a view."""
    said = {}
    for name, folder, group in (
        ("ssd", random_folder, 1),
        ("ssd:mv", multiview_folder, 1),
        ("ssd:mv", multiview_folder, 4),
    ):
        overrides = {**tiny(name, folder), "prior.group": group, "batch_size": 4}
        overrides["camera.first_batch_size"] = 4
        flags = [f"--config.{key}={value}" for key, value in overrides.items()]
        assert cli([f"--config={name}", *flags, "--dry_run"]) == 0
        out = capsys.readouterr().out
        number, unit = re.search(r"([\d.]+) (\w)FLOP a view", out).groups()
        said[name, group] = float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit]
    plain = said["ssd", 1]
    assert plain <= said["ssd:mv", 1] < 1.1 * plain
    assert said["ssd:mv", 1] < said["ssd:mv", 4] < 2 * plain
