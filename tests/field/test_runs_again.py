"""Situations of public bug reports: a run continued, exported or advised anew."""

import json
import re
import shlex
import shutil
import signal
from contextlib import nullcontext
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_run
from poison import poison
from shared_programs import shared_programs

from sdsjax.cli.checks import resolve
from sdsjax.exports import mesh as meshes
from sdsjax.exports.mesh import MeshError, extract_mesh, mesh_of_field
from sdsjax.main import cli
from sdsjax.representations.gaussians import Gaussians
from sdsjax.runs.signals import Interrupted
from sdsjax.training import programs, train
from sdsjax.training import session as session_module
from sdsjax.training.session import Diverged, asked_for

pytestmark = pytest.mark.field
FLAGS = {
    "prompt": "a red cube",
    "prior.name": "gaussian_mixture",
    "representation.space": "image",
    "resolution": 8,
    "batch_size": 1,
    "steps": 5,
    "checkpoint_every": 2,
    "preview_every": 0,
    "diagnostics.every": 1,
    "diagnostics.nan_check_every": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _programs():
    with shared_programs():
        yield


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")


def words(*rest: str, config: str = "sds:image", **changes) -> list[str]:
    """A command line of a tiny run."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    flags = [f"--config.{k}={v}" for k, v in {**FLAGS, **changed}.items()]
    return [f"--config={config}", *flags, *rest]


def typed(command: str) -> list[str]:
    """The arguments of a command that was printed."""
    program, arguments = shlex.split(command)[:3], shlex.split(command)[3:]
    assert program == ["python", "-m", "sdsjax.main"]
    return arguments


def finished(workdir: Path) -> dict:
    return json.loads((workdir / "finished.json").read_text())


def metrics_of(workdir: Path) -> dict:
    return json.loads((workdir / "metrics.json").read_text())


def never_trained(patch) -> None:
    def make(*_, **__):
        pytest.fail("it was trained again")

    patch.setattr(programs, "make_train_step", make)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a finished run of 5 steps, begun with `sds:image`."""
    workdir = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDSJAX_COMPILE_CACHE", "0")
        assert cli(words(f"--workdir={workdir}")) == 0
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "a"))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_deleted_or_emptied_export_is_made_again(copy, monkeypatch, capsys, spoil):
    """ "nothing to do", and no mesh."""
    never_trained(monkeypatch)
    before = finished(copy)
    spoil(copy / "image.png")
    assert cli([f"--workdir={copy}"]) == 0
    said = capsys.readouterr().err
    assert "is finished: image.png is missing; the exports are made again" in said
    assert (copy / "image.png").stat().st_size > 0
    assert finished(copy) == before
    assert cli([f"--workdir={copy}"]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_other_settings_of_exports_are_exported(copy, monkeypatch, capsys):
    never_trained(monkeypatch)
    changed = [f"--workdir={copy}", "--config.exports.turntable_frames=3"]
    for _ in range(2):
        assert cli(changed) == 0
    said = capsys.readouterr().err
    assert said.count("exports.turntable_frames has changed") == 1
    assert said.count("nothing to do") == 1
    assert finished(copy)["made_with"]["exports"]["turntable_frames"] == 3
    # A run of before the settings were kept: nobody knows, nothing is made.
    old = finished(copy)
    for key in ("made_with", "paths"):
        del old[key]
        (copy / "finished.json").write_text(json.dumps(old))
        assert cli([f"--workdir={copy}"]) == 0
        assert "nothing to do" in capsys.readouterr().err


def test_fewer_steps_than_there_are_say_what_one_gets(copy, monkeypatch, capsys):
    never_trained(monkeypatch)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert cli([f"--workdir={copy}", "--config.steps=3"]) == 0
    line = f"sdsjax: {copy} has 5 steps already, more than the 3 asked for: its files "
    line += "show step 5, and stay as they are\n"
    assert capsys.readouterr().err == line
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    # The same of a run that was not marked as finished.
    (copy / "finished.json").unlink()
    assert cli([f"--workdir={copy}", "--config.steps=3"]) == 0
    line = "has 5 steps already, more than the 3 asked for: its files show step 5\n"
    assert line in capsys.readouterr().err
    assert finished(copy)["step"] == 5
    assert metrics_of(copy)["steps"] == 5


def test_the_reports_commands_can_be_typed(copy, tmp_path, monkeypatch, capsys):
    """A run of `sds:image` that its --workdir continued was headed "ssd"."""
    assert cli([f"--workdir={copy}", "--config.steps=6"]) == 0
    page = (copy / "report.html").read_text()
    lede = re.search(r'<p class="lede">.*?</p>', page).group()
    assert "</span>sds:image, seed 0</p>" in lede
    section = page.split("<h2>Repeat and continue</h2>")[1]
    repeat, go_on = (unescape(c) for c in re.findall(r"<pre>(.*?)</pre>", section)[:2])
    assert go_on == f"python -m sdsjax.main --workdir={copy}"
    monkeypatch.chdir(tmp_path)
    assert cli(typed(repeat)) == 0
    (again,) = (tmp_path / "runs").iterdir()
    same = [json.loads((one / "config.json").read_text()) for one in (again, copy)]
    assert same[0] == same[1]
    assert finished(again)["step"] == 6
    capsys.readouterr()
    assert cli(typed(go_on)) == 0
    assert "is finished (step 6)" in capsys.readouterr().err


def test_sessions_are_merged_as_the_program_reads_them():
    first = ["sdsjax", "--config=sds", "--config.seed=1", "--config.steps=5"]
    later = ["sdsjax", "--workdir=a", "--config.steps=9"]
    merged = {"config": "sds", "overrides": {"seed": "1", "steps": "9"}}
    assert asked_for([first, later]) == merged
    assert asked_for([first, ["sdsjax", "--workdir=a"], later]) == merged
    anew = ["sdsjax", "--config=ssd", "--config.seed=2"]
    assert asked_for([first, later, anew]) == {
        "config": "ssd",
        "overrides": {"seed": "2"},
    }


def diverged(workdir: Path, capsys, *, at: int, saved: str) -> tuple[str, str]:
    """The two commands that a run which diverges at a step advises."""
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, at=at)
        assert cli(words(f"--workdir={workdir}")) == Diverged.exit_code
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"a NaN or infinity appeared at step {at}" in line
    assert f"the last checkpoint: {saved}" in line
    slower = re.search(r"half the rates: (.*?) or to begin", line).group(1)
    return slower, re.search(r"anew, clipped: (.*)$", line).group(1)


@pytest.mark.slow
def test_the_advice_after_a_divergence_works_when_typed(tmp_path, capsys):
    """It named a section, then needed a flag, then failed on the optimizer's state."""
    workdir = tmp_path / "a"
    slower, clipped = diverged(workdir, capsys, at=4, saved="step 2; to go on from 2 ")
    assert cli(typed(slower)) == 0
    assert "continuing from step 2" in capsys.readouterr().err
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["optimizer"]["lr"]["pixels"] == 0.01
    assert finished(workdir)["step"] == 5
    assert cli(typed(clipped)) == 0
    stored = json.loads((tmp_path / "a-clipped" / "config.json").read_text())
    assert stored["optimizer"]["clip_norm"] == 1.0
    assert stored["prior"]["name"] == "gaussian_mixture"
    assert finished(tmp_path / "a-clipped")["step"] == 5


def test_the_advice_works_where_no_checkpoint_was_saved(tmp_path, capsys):
    said = "none was saved; to begin again with half"
    slower, _ = diverged(tmp_path / "a", capsys, at=1, saved=said)
    assert cli(typed(slower)) == 0
    assert finished(tmp_path / "a")["step"] == 5


def test_a_cap_is_not_advised_where_there_is_one(tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, at=1)
        capped = words(f"--workdir={tmp_path / 'a'}", optimizer__clip_norm=1.0)
        assert cli(capped) == Diverged.exit_code
    line = capsys.readouterr().err.splitlines()[-1]
    assert cli(typed(line.split("half the rates: ")[1])) == 0
    assert finished(tmp_path / "a")["step"] == 5


def test_a_diverged_run_keeps_no_older_picture(copy, monkeypatch, capsys):
    poison(monkeypatch, at=6)
    assert (copy / "image.png").is_file()
    assert cli([f"--workdir={copy}", "--config.steps=6"]) == Diverged.exit_code
    assert not (copy / "image.png").exists()
    line = "removed what showed an earlier state: image.png"
    assert f"sdsjax: warning: {line}\n" in capsys.readouterr().err
    assert line in metrics_of(copy)["warnings"]
    assert metrics_of(copy)["status"] == "aborted"


# Quickly, in halves: exports/test_report has a failing mesh become a warning, and the
# run above that diverged removes an older picture and says so.
@pytest.mark.slow
def test_a_mesh_that_fails_is_said_and_leaves_no_older_one(
    tmp_path, monkeypatch, capsys
):
    workdir = tmp_path / "a"

    def write_older(workdir, *_, **__):
        """In place of every export of the first session."""
        (workdir / "mesh.glb").write_bytes(b"an earlier state")
        return {"mesh": workdir / "mesh.glb"}

    with monkeypatch.context() as patch:
        patch.setattr(session_module.exports, "export_all", write_older)
        train.run(tiny_run.gaussians(), workdir)
    assert (workdir / "mesh.glb").is_file()

    def fail(*_, **__):
        raise MeshError("no surface")

    monkeypatch.setattr(meshes, "extract_mesh", fail)
    capsys.readouterr()
    train.run(tiny_run.gaussians(steps=4), workdir)
    assert not (workdir / "mesh.glb").exists()
    said = capsys.readouterr().err
    lines = ["mesh was not written: no surface"]
    lines.append("removed what showed an earlier state: mesh.glb")
    for line in lines:
        assert f"sdsjax: warning: {line}\n" in said
        assert line in metrics_of(workdir)["warnings"]
        assert line in (workdir / "report.html").read_text()
    # An asset without a surface is finished all the same.
    assert finished(workdir)["step"] == 4


def test_the_advice_of_a_mesh_can_be_followed():
    """It counted dead rows, and said to lower a level that no key sets."""
    count = 4
    faint = Gaussians(
        means=np.zeros((count, 3), np.float32),
        log_scales=np.full((count, 3), -2.0, np.float32),
        quats=np.tile(np.array([1.0, 0, 0, 0], np.float32), (count, 1)),
        opacity_logits=np.array([-4.0, -5.0, 3.0, 3.0], np.float32),
        sh=np.zeros((count, 1, 3), np.float32),
        alive=np.array([True, True, False, False]),
    )
    with pytest.raises(MeshError, match=r"opacities reach 0\.018, 0\.05 is needed"):
        extract_mesh(faint, resolution=16)
    with pytest.raises(MeshError, match="train longer") as hit:
        mesh_of_field(lambda x: (np.zeros(len(x)), np.zeros((len(x), 3))), resolution=8)
    assert "--config.exports.mesh_resolution" in str(hit.value)
    assert "lower" not in str(hit.value)


def test_a_warning_of_building_is_said_once_in_our_words(tmp_path, monkeypatch, capsys):
    """A prompt cut off showed as a path, a line number and "UserWarning"."""
    build = train.build

    def warn(config):
        import warnings

        for _ in range(2):
            warnings.warn("the prompt is too long; dropped: 'hat'", stacklevel=1)
        return build(config)

    monkeypatch.setattr(train, "build", warn)
    train.run(resolve("sds:image", FLAGS), tmp_path / "a")
    said = capsys.readouterr().err
    line = "the prompt is too long; dropped: 'hat'"
    assert said.count(line) == 1
    assert f"sdsjax: warning: {line}\n" in said
    assert "UserWarning" not in said
    assert metrics_of(tmp_path / "a")["warnings"].count(line) == 1


def test_a_warning_is_not_lost_to_an_error(monkeypatch, capsys):
    def fail(config):
        import warnings

        warnings.warn("the prompt is too long", stacklevel=1)
        raise ValueError("something else")

    monkeypatch.setattr(train, "build", fail)
    with pytest.raises(ValueError, match="something else"):
        train.build_aloud(tiny_run.config())
    assert capsys.readouterr().err == "sdsjax: warning: the prompt is too long\n"


def test_a_stopped_run_keeps_its_pictures_and_says_so(copy, monkeypatch, capsys):
    asked = SimpleNamespace(requested=signal.SIGTERM)
    monkeypatch.setattr(train, "Stop", lambda: nullcontext(asked))
    command = [f"--workdir={copy}", "--config.steps=7"]
    with pytest.raises(Interrupted):
        cli(command)
    assert (copy / "image.png").is_file()
    assert "warning: of an earlier step: image.png\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert cli(command) == 0
    assert finished(copy)["step"] == 7


def test_warnings_for_programmers_stay_with_python(tmp_path, monkeypatch):
    build = train.build

    def warn(config):
        import warnings

        warnings.warn("old", RuntimeWarning, stacklevel=1)
        return build(config)

    monkeypatch.setattr(train, "build", warn)
    with pytest.warns(RuntimeWarning, match="old"):
        components, lines = train.build_aloud(tiny_run.config(steps=2))
    assert lines == []
    assert components.phases
