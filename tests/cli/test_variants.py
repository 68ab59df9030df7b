"""Every config and variant takes training steps, on a random-weight folder in Stable
Diffusion's layout at a small resolution."""

from functools import partial

import jax
import pytest
from tiny_variants import tiny, write_random_folder

from sdsjax.cli.checks import resolve
from sdsjax.cli.config_files import config_folder, config_names, read_module
from sdsjax.main import cli
from sdsjax.training.build import build
from sdsjax.training.config import ConfigError
from sdsjax.training.train_step import init_state, make_train_step

# The rest differ from these in the estimator alone, whose contract is tested by itself.
QUICK = ("ssd:toybox", "ssd:image")
VARIANTS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in (
        f"{stem}:{variant}"
        for stem in config_names()
        for variant in read_module(config_folder() / f"{stem}.py").VARIANTS
        if variant != "if64"  # of another folder: priors/test_deepfloyd runs it
        # as :toybox, and slower
        if not variant.endswith("sd21") or stem in ("ssd", "sds", "vsd")
    )
]


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory):
    return write_random_folder(tmp_path_factory.mktemp("random-sd"))


def compiled(function, *arguments):
    """Compiled in a hurry: each function runs once."""
    options = {"xla_backend_optimization_level": 0}
    return function.lower(*arguments).compile(compiler_options=options)(*arguments)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_of_every_phase(name, random_folder):
    config = resolve(name, tiny(name, random_folder))
    pieces = build(config)
    assert pieces.source.image_shape == (16, 16, 3)
    assert len(pieces.phases) == 1 + config.camera.first_steps
    parts = (pieces.source, pieces.representation, pieces.estimator, pieces.optimizer)
    key, prior_params = jax.random.key(0), pieces.source.params
    start = partial(init_state, *parts, pieces.phases[0].cameras)
    state = compiled(jax.jit(start), prior_params, key)
    before = jax.device_get(state.params)
    for phase in pieces.phases:
        total = config.steps
        step = make_train_step(*parts, pieces.sampler, phase.cameras, total=total)
        state, metrics = compiled(step, state, prior_params, key)
        assert bool(metrics["finite"])
        assert float(metrics["grad_z"]) > 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, state.params)
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd:sd21", "sds:toybox", "ssd:image"])
def test_the_whole_job_from_the_command_line(name, random_folder, tmp_path):
    overrides = tiny(name, random_folder)
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    work = tmp_path / "run"
    assert cli([f"--config={name}", *flags, f"--workdir={work}"]) == 0
    assert (work / "report.html").stat().st_size > 1000
    assert (work / "finished.json").is_file()
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
