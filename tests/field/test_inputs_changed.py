"""Situations of public bug reports: files that a run reads change between sessions."""

import json
import re
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from finished_runs import finished
from ml_collections import ConfigDict
from PIL import Image

from sdsjax.files import fingerprints
from sdsjax.runs.lock import RunError
from sdsjax.training import programs, train
from sdsjax.training.build import build_representation
from sdsjax.training.build.input_files import input_files

pytestmark = pytest.mark.field


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")


@pytest.fixture
def no_training(monkeypatch):
    """Steps that change nothing but their number: what counts here is read before.

    A step is made for every number of steps, and training has tests of its own.
    """

    def make(*_, **__):
        def step(state, prior_params, key):
            finite = jax.device_put(np.True_)
            return state._replace(step=state.step + 1), {"finite": finite}

        return step

    monkeypatch.setattr(programs, "make_train_step", make)


def write_picture(path, red=200):
    """A picture of 16 x 16 with an object of 8 x 8 in the middle."""
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[4:12, 4:12] = (red, 10, 10, 255)
    Image.fromarray(rgba).save(path)


def write_folder(folder):
    folder.mkdir()
    for name in ("front", "side", "unused"):
        write_picture(folder / f"{name}.png")
    views = [{"file": "front.png"}, {"file": "side.png", "azimuth": 90}]
    (folder / "cameras.json").write_text(json.dumps({"views": views}))


def config_of(reference, **changes):
    return tiny_run.gaussians(**{"reference__path": str(reference), **changes})


def session_of(workdir, config, **options):
    """Runs one session; returns what it recorded of itself, and all of run.json."""
    train.run(config, workdir, **options)
    record = json.loads((workdir / "run.json").read_text())
    return record["sessions"][-1], record


class OfAPicture:
    """A run of Gaussians beside a given picture: half a minute of compiling."""

    key, name = "reference.path", "mug.png"

    def __init__(self, folder):
        self.path = folder / self.name

    def write(self, state):
        write_picture(self.path, red=50 * state)

    def config(self, **changes):
        return config_of(self.path, **changes)


class OfAnotherRun:
    """A picture's own numbers on an exact prior, gone on with from another run's."""

    key, name = "edit.path", "finished.json"

    def __init__(self, folder):
        self.path = folder / "source"
        self.said = {key: tiny_run.OVERRIDES[key] for key in ("prior.name", "prompt")}
        self.said |= {"resolution": 8, "batch_size": 2, "preview_every": 0}
        config = tiny_run.resolve("ssd:image", {**self.said, "prompt": "a blue cube"})
        representation = build_representation(config, (8, 8, 3))
        finished(self.path, config, *jax.jit(representation.init)(jax.random.key(3)))
        self.record = json.loads((self.path / self.name).read_text())

    def write(self, state):
        (self.path / self.name).write_text(json.dumps({**self.record, "note": state}))

    def config(self, **changes):
        said = {**self.said, "edit.path": str(self.path), "steps": 3}
        return tiny_run.resolve("edit:image", {**said, **changes})


KINDS = [OfAnotherRun, pytest.param(OfAPicture, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_training")
def test_a_changed_file_is_refused_or_said(tmp_path, capsys, kind):
    """The loss had another target from one session to the next, without a word."""
    source, workdir = kind(tmp_path), tmp_path / "run"
    source.write(4)
    _, record = session_of(workdir, source.config())
    (name,) = record["inputs"][source.key]
    assert name == source.name
    before = (workdir / "run.json").read_bytes()
    source.write(2)
    change = f"{source.key}: {name} has changed"
    # To go on, and to ask for what is finished.
    for steps in (4, 3):
        with pytest.raises(RunError) as hit:
            train.run(source.config(steps=steps), workdir)
        line = str(hit.value)
        assert f"other files than there are now ({change[:-7]}" in line
        assert "put them back" in line
        assert "--allow_config_change" in line
        assert "\n" not in line
    assert (workdir / "run.json").read_bytes() == before
    capsys.readouterr()
    longer = source.config(steps=4)
    session, _ = session_of(workdir, longer, allow_config_change=True)
    said = f"goes on with other files than before: {change}"
    assert session["changed_inputs"] == [change]
    assert said in capsys.readouterr().err
    kept = json.loads((workdir / "metrics.json").read_text())["warnings"]
    assert sum(said in line for line in kept) == 1
    # The new one is this run's from here on.
    session, _ = session_of(workdir, source.config(steps=5))
    assert "changed_inputs" not in session
    # Put back as it was at first, it is another one again.
    source.write(4)
    with pytest.raises(RunError, match=re.escape(change)):
        train.run(source.config(steps=6), workdir)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_training")
def test_a_run_of_before_goes_on_and_is_told_of_the_next_change(tmp_path, kind):
    source, workdir = kind(tmp_path), tmp_path / "run"
    source.write(4)
    session_of(workdir, source.config())
    record = json.loads((workdir / "run.json").read_text())
    del record["inputs"]
    (workdir / "run.json").write_text(json.dumps(record))
    source.write(2)
    session_of(workdir, source.config(steps=4))
    source.write(1)
    with pytest.raises(RunError, match=f"{source.name} has changed"):
        train.run(source.config(steps=5), workdir)


def cameras_turned(folder):
    listing = (folder / "cameras.json").read_text()
    (folder / "cameras.json").write_text(listing.replace("90", "80"))


def one_view_less(folder):
    views = [{"file": "front.png"}]
    (folder / "cameras.json").write_text(json.dumps({"views": views}))


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda folder: write_picture(folder / "unused.png", red=1), []),
        (lambda folder: write_picture(folder / "side.png", red=1), ["side.png has"]),
        (lambda folder: (folder / "side.png").unlink(), ["side.png is gone"]),
        (cameras_turned, ["cameras.json has changed"]),
        (one_view_less, ["cameras.json has changed", "side.png is gone"]),
        (shutil.rmtree, []),  # building says that it is missing
    ],
)
def test_of_a_folder_what_is_read_counts(tmp_path, change, lines):
    folder = tmp_path / "views"
    write_folder(folder)
    before = input_files(config_of(folder))
    assert len(before["reference.path"]) == 3
    change(folder)
    found = fingerprints.changes(before, input_files(config_of(folder)))
    assert len(found) == len(lines)
    for line, said in zip(found, lines):
        assert line.startswith(f"reference.path: {said}")


def test_points_to_begin_from_count(tmp_path):
    path = tmp_path / "cloud.ply"
    path.write_bytes(b"ply one")
    config: Any = ConfigDict(tiny_run.gaussians().to_dict())
    config.representation.init = str(path)
    before = input_files(config)
    assert set(before["representation.init"]) == {"cloud.ply"}
    path.write_bytes(b"ply two")
    (line,) = fingerprints.changes(before, input_files(config))
    assert line == "representation.init: cloud.ply has changed"


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("unet/config.json", True),
        ("unet/diffusion_pytorch_model.safetensors", True),
        ("tokenizer/merges.txt", True),
        ("scheduler/scheduler_config.json", True),
        ("README.md", False),
    ],
)
def test_weights_that_were_trained_further_count(pytestconfig, tmp_path, name, counts):
    folder = tmp_path / "model"
    shutil.copytree(pytestconfig.rootpath / "sdsjax/weights/toybox-sd", folder)
    said = {"prompt": "a red mug", "prior.folder": str(folder)}
    config = tiny_run.resolve("ssd", said)
    before = input_files(config)
    whole = bytearray((folder / name).read_bytes())
    whole[len(whole) // 2] ^= 1
    (folder / name).write_bytes(whole)
    found = fingerprints.changes(before, input_files(config))
    assert found == ([f"prior.folder: {name} has changed"] if counts else [])


def test_the_weights_of_the_package_and_of_companions_count():
    said = {
        "prior.depth_folder": "toybox-dpt",
        "prior.normals_folder": "toybox-normals",
    }
    found = input_files(tiny_run.resolve("ssd", {"prompt": "a red mug", **said}))
    assert "unet/diffusion_pytorch_model.safetensors" in found["prior.folder"]
    for key in said:
        assert set(found[key]) == {"config.json", "model.safetensors"}


def test_a_repository_that_is_not_here_is_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = tiny_run.resolve(
        "ssd", {"prompt": "a mug", "prior.folder": "no-owner/no-model"}
    )
    assert input_files(config) == {}
    assert fingerprints.changes({"prior.folder": {"unet/config.json": "x"}}, {}) == []


def test_a_large_file_is_known_by_its_size_and_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "WHOLE_BYTES", 1 << 20)
    path, content = tmp_path / "weights", bytearray(6 << 20)
    content[0], content[-1] = 1, 2

    def known(content):
        path.write_bytes(content)
        return fingerprints.fingerprint(path)

    first = known(content)
    assert first.startswith(f"size:{6 << 20},pieces:")
    assert known(content) == first
    for change in (slice(0, 1), slice(-1, None), slice(3 << 20, (3 << 20) + 100_000)):
        other = bytearray(content)
        other[change] = bytes([7]) * len(other[change])
        assert known(other) != first
    assert known(content + b"x") != first
