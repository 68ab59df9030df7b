"""Situations of public bug reports: a disk that is full, or only to be read.

Every write of a run is refused in turn: what happens is said in a line, nothing that
was trained is lost, and the same command makes what is missing.
"""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny_run
from shared_programs import shared_programs

from sdsjax.cli import devices
from sdsjax.exports import ExportError
from sdsjax.runs import logs
from sdsjax.runs.checkpoints import CheckpointError
from sdsjax.runs.lock import RunError
from sdsjax.training import programs, train

pytestmark = pytest.mark.field
SHORT = {
    "steps": 5,
    "checkpoint_every": 2,
    "diagnostics__every": 1,
    "diagnostics__nan_check_every": 1,
}
# of a whole run the second is slow: the same lines are taken
REFUSALS = [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.slow)]
EXPORTS = ("image.png", "metrics.json", "report.html", "finished.json")
OF_GAUSSIANS = ("turntable.mp4", "splats.ply", "splats.glb", "mesh.glb", "views.png")


@pytest.fixture(scope="module", autouse=True)
def _programs():
    with shared_programs():
        yield


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")


def refuse(patch, name: str | tuple[str, ...], number: int) -> None:
    """Makes every write of a file whose name begins with (one of) `name` fail."""
    replace, opened = os.replace, Path.open

    def refused(path) -> bool:
        return Path(path).name.startswith(name)

    def full_replace(source, target, **options):
        if refused(target):
            raise OSError(number, os.strerror(number), str(target))
        return replace(source, target, **options)

    def full_open(self, mode="r", *rest, **options):
        if refused(self) and mode[0] in "wax":
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, mode, *rest, **options)

    patch.setattr(os, "replace", full_replace)
    patch.setattr(Path, "open", full_open)


def never_trained(patch) -> None:
    """Makes another training step fail."""

    def make(*_, **__):
        pytest.fail("it was trained again")

    patch.setattr(programs, "make_train_step", make)


def metrics_of(workdir: Path) -> dict:
    return json.loads((workdir / "metrics.json").read_text())


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("name", ["lock.json", "config.json", "run.json"])
def test_a_directory_that_cannot_be_begun(tmp_path, monkeypatch, name, number):
    refuse(monkeypatch, name, number)
    with pytest.raises(RunError) as hit:
        train.run(tiny_run.config(**SHORT), tmp_path / "a")
    reason = os.strerror(number)
    assert str(hit.value) == f"cannot write to --workdir {tmp_path / 'a'}: {reason}"
    assert devices.exit_status(hit.value) == (1 if number == errno.ENOSPC else 2)
    assert not list(tmp_path.rglob("*lock*"))


@pytest.mark.parametrize("number", REFUSALS)
def test_a_checkpoint_names_the_last_good_one(tmp_path, monkeypatch, capfd, number):
    def refuse_the_second(name, content):
        if (name, content["step"]) == ("checkpoint", 2):
            refuse(monkeypatch, "manifest.json", number)

    config, workdir = tiny_run.config(**SHORT), tmp_path / "a"
    with pytest.raises(CheckpointError) as hit:
        train.run(config, workdir, on_event=refuse_the_second)
    line = f"cannot write checkpoint 4 to {workdir / 'checkpoints'}: "
    line += f"{os.strerror(number)}; the last good one is 2"
    assert str(hit.value) == line
    assert devices.exit_status(hit.value) == 4
    assert not devices.is_out_of_memory(hit.value)
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.undo()
    train.run(config, workdir)
    assert json.loads((workdir / "finished.json").read_text())["step"] == 5


def test_a_disk_that_is_full_is_no_device_that_is():
    """The store's word for a full disk is the device's for its memory."""
    text = "RESOURCE_EXHAUSTED: Error writing: [OS error 28: ENOSPC No space left on "
    assert not devices.is_out_of_memory(RuntimeError(text + "device]"))
    assert devices.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: 4 GiB"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, workdir) of a finished run of a picture."""
    workdir = tmp_path_factory.mktemp("picture") / "a"
    train.run(tiny_run.config(**SHORT), workdir)
    return tiny_run.config(**SHORT), workdir


def copied(workdir: Path, folder: Path) -> Path:
    """A copy of a trained run, not marked as finished."""
    copy = Path(shutil.copytree(workdir, folder / "copy"))
    (copy / "finished.json").unlink()
    return copy


def exported_again(config, copy: Path, names: tuple, number: int, capsys) -> None:
    """Refuses some exports, then lets them be; checks what is said and is there."""
    with pytest.MonkeyPatch.context() as patch:
        never_trained(patch)
        with pytest.MonkeyPatch.context() as full:
            refuse(full, names, number)
            with pytest.raises(ExportError) as hit:
                train.run(config, copy)
        assert devices.exit_status(hit.value) == 5
        assert "\n" not in str(hit.value)
        assert "the same command" in str(hit.value)
        assert not (copy / "finished.json").exists()
        said = capsys.readouterr().err
        for name in names:
            # What an earlier session wrote under it does not pass for this one's.
            assert not (copy / name).exists()
            word = name.partition(".")[0]
            line = f"{word} was not written: {os.strerror(number)}"
            if name != "finished.json":
                assert f"sdsjax: warning: {line}\n" in said
            if name not in ("finished.json", "metrics.json"):
                assert line in metrics_of(copy)["warnings"]
                assert word in metrics_of(copy)["missing"]
        train.run(config, copy)
        assert all((copy / name).is_file() for name in (*names, "finished.json"))
        assert metrics_of(copy)["missing"] == []


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_named_and_made_by_the_same_command(
    trained, tmp_path, capsys, name, number
):
    config, workdir = trained
    exported_again(config, copied(workdir, tmp_path), (name,), number, capsys)
    assert tiny_run.final_digest(tmp_path / "copy") == tiny_run.final_digest(workdir)


@pytest.mark.slow
def test_every_export_of_gaussians_is_made_again(tmp_path, capsys):
    workdir = tmp_path / "a"
    train.run(tiny_run.gaussians(), workdir)
    assert all((workdir / name).is_file() for name in OF_GAUSSIANS)
    (workdir / "finished.json").unlink()
    capsys.readouterr()
    exported_again(tiny_run.gaussians(), workdir, OF_GAUSSIANS, errno.ENOSPC, capsys)


def test_a_continued_run_that_cannot_be_recorded_stays_finished(trained, tmp_path):
    _, workdir = trained
    copy = Path(shutil.copytree(workdir, tmp_path / "a"))
    with pytest.MonkeyPatch.context() as full:
        refuse(full, "run.json", errno.ENOSPC)
        with pytest.raises(RunError):
            train.run(tiny_run.config(**{**SHORT, "steps": 6}), copy)
    assert tiny_run.final_digest(copy) == tiny_run.final_digest(workdir)


@pytest.mark.parametrize("number", REFUSALS)
def test_what_only_watches_a_run_does_not_stop_it(
    tmp_path, monkeypatch, capsys, number
):
    """TensorBoard's own writer ended its thread, and the run waited for it for ever."""
    error = OSError(number, os.strerror(number))

    def full(self):
        raise error

    config, workdir = tiny_run.config(**SHORT, preview_every=2), tmp_path / "a"
    refuse(monkeypatch, "step-", number)
    monkeypatch.setattr(logs.EventsWriter, "flush", full)
    train.run(config, workdir)
    said, kept = capsys.readouterr().err, metrics_of(workdir)["warnings"]
    for step in (2, 4, 5):
        assert f"preview {step} was not written: {error.strerror}" in kept
    assert sum("goes on without TensorBoard" in line for line in kept) == 1
    for line in kept:
        assert said.count(f"sdsjax: warning: {line}\n") == 1


@pytest.mark.parametrize("freed", [True, False])
def test_history_is_completed_or_the_run_is_not_finished(tmp_path, capsys, freed):
    config, workdir = tiny_run.config(**SHORT), tmp_path / "a"
    with pytest.MonkeyPatch.context() as full:

        def free(name, content):
            if freed and (name, content["step"]) == ("checkpoint", 4):
                full.undo()

        full.setenv("SDSJAX_COMPILE_CACHE", "0")
        refuse(full, "history.jsonl", errno.ENOSPC)
        if freed:
            train.run(config, workdir, on_event=free)
            lines = (workdir / "history.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
        else:
            with pytest.raises(ExportError, match="marked as finished"):
                train.run(config, workdir)
            assert not (workdir / "finished.json").exists()
    assert "history.jsonl cannot be written (No space" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 4 MB, and a function that fills it up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.name == "nt":
        pytest.skip("no mount on this system")
    command = [mount, "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")

    def fill(left: int) -> None:
        taken = os.statvfs(folder)
        size = taken.f_bavail * taken.f_frsize - left
        (folder / "filler").write_bytes(bytes(size))

    yield folder, fill
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("case", ["checkpoint", "exports"])
def test_a_disk_that_is_really_full(small_disk, capfd, case):
    """130 lines of tracebacks and "out of memory"; "done" without a report."""
    folder, fill = small_disk
    config, workdir = tiny_run.config(**SHORT), folder / "a"
    full_at, left = (2, 8192) if case == "checkpoint" else (5, 0)

    def filled(name, content):
        if (name, content["step"]) == ("checkpoint", full_at):
            fill(left)

    error = CheckpointError if case == "checkpoint" else ExportError
    with pytest.raises(error) as hit:
        train.run(config, workdir, on_event=filled)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "RESOURCE_EXHAUSTED" not in said
    if case == "checkpoint":
        line = f"cannot write checkpoint 4 to {workdir / 'checkpoints'}: No space left"
        assert str(hit.value).startswith(line)
    else:
        for name in ("image", "metrics", "report"):
            assert f"warning: {name} was not written: No space left" in said
    assert not (workdir / "finished.json").exists()
    (folder / "filler").unlink()
    train.run(config, workdir)
    assert metrics_of(workdir)["missing"] == []
    assert json.loads((workdir / "finished.json").read_text())["step"] == 5
