"""The command line: every mistake is one line on stderr, status 2, nothing written."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdsjax import __version__
from sdsjax.main import cli
from sdsjax.models.loading.hub import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "steps": 2,
    "resolution": 8,
    "batch_size": 1,
    "representation.count": 20,
    "exports.mesh_resolution": 8,
    "exports.turntable_frames": 2,
    "prior.name": "gaussian_mixture",
}
MISTAKES = {
    "unknown key": (["--config.lrr=2"], "did you mean"),
    "unknown nested key": (["--config.estimator.treshold=2"], "estimator.threshold"),
    "key is a section": (["--config.optimizer=2"], "is a section"),
    "missing value": (["--config.steps"], "needs a value"),
    "stray argument": (["extra"], "unexpected argument 'extra'"),
    "unquoted prompt": (["--config.prompt=a", "red", "mug"], "quote"),
    "unknown flag": (["--workdri=x"], "workdir"),
    "flag without value": (["--workdir"], "workdir"),
    "empty workdir": (["--workdir="], "empty"),
    "wrong type": (["--config.steps=1.5"], "whole number"),
    "wrong type of a switch": (["--config.prior.view_prompts=5"], "true or false"),
    "not a number": (["--config.optimizer.b1=nan"], "finite"),
    "too small": (["--config.steps=0"], "in 1.."),
    "negative seed": (["--config.seed=-1"], "seed"),
    "too large": (["--config.resolution=100000"], "8..2048"),
    "learning rate": (["--config.optimizer.lr.sh=-1"], "optimizer.lr.sh"),
    "camera": (["--config.camera.elevation=(0,95)"], "-90..90"),
    "pair reversed": (["--config.camera.fov=(50,40)"], "low, high"),
    "pair of three": (["--config.camera.fov=(1,2,3)"], "low, high"),
    "times reversed": (["--config.timesteps.t_min=990"], "t_max"),
    "first phase": (["--config.camera.first_steps=9999"], "first_steps"),
    "background": (["--config.background=blue"], "r,g,b"),
    "estimator": (["--config.estimator.name=ssdd"], "did you mean 'ssd'"),
    "ablation": (["--config.estimator.reduction=all"], "adaptive, sds, none"),
    "prior": (["--config.prior.name=gan"], "gaussian_mixture"),
    "dtype": (["--config.prior.dtype=float16"], "bfloat16"),
    "representation": (["--config.representation.name=mesh"], "gaussians, image, nerf"),
    "initial cloud": (["--config.representation.init=cube"], "shell"),
    "timesteps": (["--config.timesteps.name=cosin"], "did you mean 'cosine'"),
    "weighting": (["--config.estimator.weighting=sigma"], "sigma2, sigma_alpha"),
    "optimizer": (["--config.optimizer.name=sgd"], "adam"),
    "folder": (["--config.prior.folder=/no/such/folder"], "does not exist"),
    "empty prompt": (["--config.prompt= "], "prompt is empty"),
    "prompt word": (["--config.prompt=a bleu house"], "blue"),
    "prompt grammar": (["--config.prompt=house blue"], "a red ball"),
    "negative word": (["--config.negative_prompt=blurry"], "negative_prompt"),
    "caption": (
        ["--config.prior.name=empirical", "--config.prior.captions=('a hat',)"],
        "hat",
    ),
    "mixture": (
        ["--config.prior.name=gaussian_mixture", "--config.prior.weights=(1,)"],
        "prior.weights",
    ),
}


def refused(argv, capsys, folder) -> str:
    """The one line of an error, with nothing written and nothing on stdout."""
    status, out = cli(argv), capsys.readouterr()
    assert status == 2
    assert out.out == ""
    assert out.err.count("\n") == 1
    assert out.err.startswith("sdsjax: error: ")
    assert "Traceback" not in out.err
    assert list(folder.rglob("*")) == []
    return out.err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, capsys, folder):
    argv, part = MISTAKES[name]
    assert part in refused(["--config=ssd", *argv], capsys, folder)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "no config"),
        (["--config="], "no config file"),
        (["--config=nope"], "sds, sds_plus, ssd"),
        (["--config=configs/sssd.py"], "did you mean 'ssd'"),
        (["--config=/no/such/file.py"], "no config file"),
        (["--config=ssd:imag"], "did you mean 'image'"),
        (["--config=."], "not a Python file"),
        (["--workdir=nothing_here"], "no config"),
    ],
)
def test_a_missing_config_is_one_line(argv, part, capsys, folder):
    assert part in refused(argv, capsys, folder)


def test_the_vocabulary_is_listed_for_an_unknown_word(capsys, folder):
    line = refused(["--config=ssd", "--config.prompt=a blue hous"], capsys, folder)
    assert "house" in line
    assert all(word in line for word in ("snowman", "purple", "overhead"))


def test_a_prior_trained_anew_keeps_the_toyboxs_vocabulary(
    capsys, folder, tmp_path_factory
):
    mine = tmp_path_factory.mktemp("priors") / "mine"
    shutil.copytree(BUILT_IN / "toybox-sd", mine)
    flags = [f"--config.prior.folder={mine}", "--config.prompt=a blue hous"]
    assert "house" in refused(["--config=ssd", *flags], capsys, folder)


def test_a_foreign_directory_is_left_alone(capsys, folder):
    work = folder / "mine"
    work.mkdir()
    (work / "thesis.txt").write_text("x")
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    assert cli(["--config=ssd", *flags, f"--workdir={work}"]) == 2
    out = capsys.readouterr()
    assert out.err.count("\n") == 1
    assert "thesis.txt" in out.err
    assert [p.name for p in work.iterdir()] == ["thesis.txt"]


def test_the_program_itself_refuses(tmp_path):
    command = [sys.executable, "-m", "sdsjax.main", "--config=ssd", "--config.lrr=2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def test_help_and_version_do_not_start_jax():
    code = (
        "import sys; from sdsjax.main import cli; "
        "assert cli(['--help']) == 0 and cli(['--version']) == 0; "
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: sdsjax" in done.stdout
    assert __version__ in done.stdout
    assert len(done.stdout.splitlines()) < 32


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m sdsjax.main --help | true"
    done = subprocess.run(
        command, shell=True, env=environment(), capture_output=True, text=True
    )
    assert done.stderr == ""


def test_list_shows_configs_estimators_and_words(capsys, folder):
    assert cli(["--list"]) == 0
    out = capsys.readouterr().out
    for word in ("ssd", ":sd21", "sds: guidance_scale", "cosine", "snowman", "purple"):
        assert word in out
    assert max(len(line) for line in out.splitlines()) <= 88


def test_dry_run_prints_flags_that_reproduce_it(capsys, folder):
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    named = "--config.prompt=a green mug"
    assert cli(["--config=ssd", *flags, "--config.seed=5", named, "--dry_run"]) == 0
    first = capsys.readouterr().out
    assert "--config.seed=5" in first
    assert "--config.estimator.rescale=True" in first
    assert "runs/ssd-a-green-mug-5" in first
    assert "gaussians 280" in first  # 20 rows of 3 + 3 + 4 + 1 + 3
    again = [f for f in shlex.split(first) if f.startswith("--config.")]
    assert cli(["--config=ssd", *again, "--dry_run"]) == 0
    keys = [line for line in first.splitlines() if line.startswith("--")]
    second = capsys.readouterr().out.splitlines()
    assert [line for line in second if line.startswith("--")] == keys
    assert list(folder.iterdir()) == []


def test_the_last_of_two_overrides_counts(capsys, folder):
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    argv = [*flags, "--config.steps=3", "--config.steps", "4", "--dry_run"]
    assert cli(["--config", "ssd", *argv]) == 0
    assert "--config.steps=4\n" in capsys.readouterr().out


def test_compiling_in_a_dry_run_tells_what_a_step_holds(capsys, folder, monkeypatch):
    from sdsjax.training.programs import Programs, StepMemory

    monkeypatch.setattr(
        Programs, "step_memory", lambda self, phase: StepMemory(2**30, 2**62)
    )
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    assert cli(["--config=ssd", *flags, "--dry_run", "--compile"]) == 0
    said = capsys.readouterr().out
    assert "by XLA's plan: 1.000 of prior, state and results" in said
    assert "this will not fit" in said
    assert "microbatch=1" in said
    assert list(folder.iterdir()) == []


def test_compiling_needs_a_dry_run_and_weights(capsys, folder):
    assert cli(["--config=ssd", "--compile"]) == 2
    assert "--compile goes with --dry_run" in capsys.readouterr().err
    assert cli(["--config=ssd:sd21", "--dry_run", "--compile"]) == 2
    assert "are not local" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.fixture
def train_called(monkeypatch):
    from sdsjax.training import train

    calls = []

    def run(config, workdir, **options):
        calls.append((config, workdir, options))

    monkeypatch.setattr(train, "run", run)
    return calls


def test_a_run_gets_the_checked_config(train_called, folder):
    argv = ["--config", "ssd", "-config.prompt", "a red mug", "--config.seed=3"]
    assert cli([*argv, "--allow_config_change"]) == 0
    ((config, workdir, options),) = train_called
    assert (config.prompt, config.seed) == ("a red mug", 3)
    assert workdir == "runs/ssd-a-red-mug-3"
    command = ["sdsjax", "--config=ssd", "--config.prompt=a red mug"]
    command += ["--config.seed=3", "--allow_config_change"]
    wanted = {"allow_config_change": True, "command": command, "on_event": None}
    assert options == wanted


def test_a_workdir_alone_continues_its_run(train_called, folder):
    from sdsjax.cli.checks import resolve
    from sdsjax.training.config import to_json

    stored = to_json(resolve("sds:image", {"prompt": "a red mug"}))
    (folder / "config.json").write_text(json.dumps(stored))
    assert cli([f"--workdir={folder}", "--config.steps=900"]) == 0
    config = train_called[0][0]
    assert to_json(config) == {**stored, "steps": 900}


@pytest.mark.parametrize(
    ("error", "status", "part"),
    [
        (MemoryError("x"), 1, "lower --config.batch_size (now 4)"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (PermissionError(13, "Permission denied", "runs"), 2, "Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_of_a_run(error, status, part, monkeypatch, capsys, folder):
    from sdsjax.training import train

    def run(*_, **__):
        raise error

    monkeypatch.setattr(train, "run", run)
    assert cli(["--config=ssd"]) == status
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch, capsys, folder):
    from sdsjax.training import train

    def run(*_, **__):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(train, "run", run)
    assert cli(["--config=ssd"]) == 1
    assert "Traceback" in capsys.readouterr().err
