"""The loop: what a run leaves behind, how it fails, what it refuses."""

import inspect
import json
import os
import signal
import struct
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_run
from PIL import Image
from poison import poison
from shared_programs import shared_programs
from tensorboardX.proto.event_pb2 import Event, SessionLog

from sdsjax.cli import python_api
from sdsjax.runs import lock, logs
from sdsjax.runs.compile_cache import LEVEL, enable_compile_cache
from sdsjax.runs.lock import RunError
from sdsjax.runs.run_directory import differences
from sdsjax.runs.signals import Interrupted
from sdsjax.training import session as session_module
from sdsjax.training import train
from sdsjax.training.previews import picture
from sdsjax.training.session import Diverged, preset_and_overrides


def write_report_only(workdir, *_, **__):
    """In place of every export, which has tests of its own."""
    (workdir / "report.html").write_text("report")
    return {"report": workdir / "report.html"}


@pytest.fixture(scope="module", autouse=True)
def _programs():
    with shared_programs():
        yield


@pytest.fixture(autouse=True)
def _light(monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")
    monkeypatch.setattr(session_module.exports, "export_all", write_report_only)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, asset, events) of a run with previews."""
    workdir = tmp_path_factory.mktemp("runs") / "a"
    events = []
    config = tiny_run.config(preview_every=15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDSJAX_COMPILE_CACHE", "0")
        asset = train.run(config, workdir, on_event=lambda *event: events.append(event))
    return workdir, asset, events


def snapshot(folder: Path) -> dict:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_leaves_everything_and_no_lock(finished):
    workdir, asset, _ = finished
    names = {p.name for p in workdir.iterdir()}
    assert names >= {
        "config.json", "run.json", "history.jsonl", "finished.json", "report.html",
        "metrics.json", "checkpoints", "previews", "tensorboard",
    }  # fmt: skip
    assert "lock.json" not in names
    assert asset.params.pixels.shape == (8, 8, 3)
    assert asset.metrics["steps"] == 30
    rows = [json.loads(x) for x in (workdir / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    assert rows[0].keys() >= {"grad_z", "grad/pixels", "estimate/h_norm", "regularizer"}
    run = json.loads((workdir / "run.json").read_text())
    assert run["sessions"][0]["versions"]["jax"] == jax.__version__
    config = json.loads((workdir / "config.json").read_text())
    assert config["prompt"] == "a red cube"


def test_events_and_previews(finished):
    workdir, _, events = finished
    steps = {}
    for name, content in events:
        steps.setdefault(name, []).append(content["step"])
    assert steps["checkpoint"] == [10, 20, 30]
    assert steps["preview"] == [15, 30]
    assert steps["finished"] == [30]
    image = np.asarray(Image.open(workdir / "previews" / "step-000030.png"))
    # A 2D picture: the render and four noise levels beside it.
    assert image.shape == (8, 40, 3)
    assert image.std() > 1


def test_moves_towards_the_prompts_component(finished):
    # conditional keeps the first of the mixture's colours.
    _, asset, _ = finished
    red = np.asarray(asset.params.pixels).mean((0, 1))
    assert red[0] > 0.6 > 0.4 > red[2]


def test_finished_directory_says_so_and_nothing_changes(finished, capsys):
    workdir, asset, _ = finished
    before = snapshot(workdir)
    again = train.run(tiny_run.config(preview_every=15), workdir)
    assert "is finished (step 30): nothing to do" in capsys.readouterr().err
    assert snapshot(workdir) == before
    np.testing.assert_array_equal(again.params.pixels, asset.params.pixels)
    assert again.paths == asset.paths


def test_changed_config_is_refused_with_the_difference(finished):
    workdir, _, _ = finished
    before = snapshot(workdir)
    changed = tiny_run.config(optimizer__lr__pixels=0.5, steps=40)
    with pytest.raises(
        RunError, match=r"optimizer\.lr\.pixels: 0\.02 -> 0\.5\)"
    ) as hit:
        train.run(changed, workdir)
    assert "\n" not in str(hit.value)
    assert snapshot(workdir) == before


def test_differences_ignores_what_may_change():
    old = {
        "steps": 1,
        "exports": {"turntable_frames": 3},
        "seed": 0,
        "a": {"b": (1, 2)},
    }
    new = {
        "steps": 9,
        "exports": {"turntable_frames": 4},
        "seed": 1,
        "a": {"b": [1, 2]},
    }
    assert differences(old, new) == ["seed: 0 -> 1"]
    assert differences({"x": 1}, {}) == ["x: 1 -> '(absent)'"]


def test_a_directory_of_an_older_config_is_continued_or_refused(tmp_path, capsys):
    """`scoring.ceiling` was true by default; a key that has gone or come is named."""
    workdir = tmp_path / "a"
    train.run(tiny_run.config(steps=10, scoring__ceiling=True), workdir)
    train.run(tiny_run.config(steps=30), workdir)
    assert "continuing from step 10" in capsys.readouterr().err
    assert json.loads((workdir / "finished.json").read_text())["step"] == 30
    stored = json.loads((workdir / "config.json").read_text())
    stored["prior"]["gone"] = stored["prior"].pop("views")
    (workdir / "config.json").write_text(json.dumps(stored))
    before = snapshot(workdir)
    with pytest.raises(RunError) as hit:
        train.run(tiny_run.config(steps=40), workdir)
    assert "prior.gone: 16 -> '(absent)'; prior.views: '(absent)' -> 16" in str(
        hit.value
    )
    assert "\n" not in str(hit.value)
    assert snapshot(workdir) == before


@pytest.mark.slow
def test_light_compilation_changes_no_bit(tmp_path):
    """Against XLA's own level 3, which a name in XLA_FLAGS brings back."""
    flags = {"light": "", "full": f"--{LEVEL}=3"}
    for name, text in flags.items():
        process = tiny_run.start(tmp_path / name, environment={"XLA_FLAGS": text})
        assert process.wait() == 0, process.stderr.read()
        process.communicate()
    digests = {tiny_run.final_digest(tmp_path / name) for name in flags}
    assert len(digests) == 1


@pytest.mark.parametrize("kind", ["file", "foreign", "below a file"])
def test_directories_that_are_not_ours_stay_untouched(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("mine")
    workdir = {
        "file": tmp_path / "notes.txt",
        "foreign": tmp_path,
        "below a file": tmp_path / "notes.txt" / "run",
    }[kind]
    with pytest.raises(RunError, match="--workdir") as hit:
        train.run(tiny_run.config(), workdir)
    assert "\n" not in str(hit.value)
    assert snapshot(tmp_path) == {"notes.txt": b"mine"}


def test_nan_aborts_and_never_becomes_a_checkpoint(tmp_path, monkeypatch):
    workdir = tmp_path / "a"
    # The check is due only at the end: saving must look for itself.
    config = tiny_run.config(diagnostics__nan_check_every=1000)
    with monkeypatch.context() as patch:
        poison(patch, at=20)
        with pytest.raises(Diverged, match="step 20; step 19 was the last good one"):
            train.run(config, workdir)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["10"]
    assert (workdir / "report.html").is_file()
    assert not (workdir / "finished.json").exists()
    assert not (workdir / "lock.json").exists()
    asset = train.run(config, workdir)
    assert np.isfinite(asset.params.pixels).all()


def test_a_stopped_run_says_what_stopped_it(tmp_path, monkeypatch):
    said = {}
    monkeypatch.setattr(
        session_module.exports, "export_all", lambda *_, **rest: said.update(rest)
    )
    asked = SimpleNamespace(requested=signal.SIGTERM)
    monkeypatch.setattr(train, "Stop", lambda: nullcontext(asked))
    with pytest.raises(Interrupted) as hit:
        train.run(tiny_run.config(), tmp_path / "a")
    assert hit.value.code == hit.value.exit_code == 143
    sentence = "stopped by SIGTERM at step 1; the same command continues it"
    assert said["status"] == "stopped"
    assert said["warnings"][-1] == str(hit.value) == sentence


def test_lock_of_a_living_process_refuses(tmp_path):
    workdir = tmp_path / "a"
    workdir.mkdir()
    lock.acquire(workdir / "lock.json")
    with pytest.raises(RunError, match=f"in use by process {os.getpid()} on"):
        train.run(tiny_run.config(), workdir)
    assert (workdir / "lock.json").exists()


def test_stale_locks_are_taken_over(tmp_path):
    path = tmp_path / "lock.json"
    lock.acquire(path)
    mine = json.loads(path.read_text())
    # No such process; then this pid, but of an older process.
    for holder in ({**mine, "pid": 2**22 + 1}, {**mine, "process_started": "1"}):
        path.write_text(json.dumps(holder))
        lock.acquire(path)
        assert (
            json.loads(path.read_text())["process_started"] == mine["process_started"]
        )
        assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]
    # Another host: nobody can tell whether it still runs.
    path.write_text(json.dumps({**mine, "host": "elsewhere", "pid": 1}))
    with pytest.raises(RunError, match=r"on elsewhere.*delete .*lock\.json"):
        lock.acquire(path)
    path.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        lock.acquire(path)
    lock.release(path)
    assert path.exists()


def read_scalars(folder: Path, tag: str) -> list[int]:
    """Steps under which a tag is logged, by TensorBoard's rule: a later file's session
    start drops what came at or after its step. An independent reader of the records."""
    steps = []
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                steps = [s for s in steps if s < event.step]
            steps += [event.step for v in event.summary.value if v.tag == tag]
    return steps


def test_two_logs_of_one_second_keep_both(tmp_path, monkeypatch):
    monkeypatch.setattr(logs.time, "time", lambda: 1.7e9)
    for start, steps in ((0, (5, 10)), (7, (12,))):
        with logs.Log(tmp_path, 20, start) as log:
            for step in steps:
                log.scalars({"step": step, "grad_z": 1.0})
    assert len(list(tmp_path.iterdir())) == 2
    assert read_scalars(tmp_path, "grad_z") == [5, 12]


# The crash at step 20 comes after a first checkpoint, or before it.
# Anew from nothing too, after a step that diverges: field/test_runs_again.
@pytest.mark.parametrize(
    "checkpoint_every", [10, pytest.param(20, marks=pytest.mark.slow)]
)
def test_crash_and_resume_logs_every_step_once(tmp_path, monkeypatch, checkpoint_every):
    workdir = tmp_path / "a"
    config = tiny_run.config(checkpoint_every=checkpoint_every)
    save = session_module.Session.save

    def crash(self, log):
        if self.step == 20:
            # What a crash leaves: rows past the last checkpoint, one cut in half.
            log.flush()
            with (workdir / "history.jsonl").open("a") as file:
                file.write('{"step": 20, "gra')
            raise KeyboardInterrupt
        save(self, log)

    monkeypatch.setattr(session_module.Session, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, workdir)
    monkeypatch.setattr(session_module.Session, "save", save)
    train.run(config, workdir)
    rows = [json.loads(x) for x in (workdir / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    assert read_scalars(workdir / "tensorboard", "grad_z") == [5, 10, 15, 20, 25, 30]


def test_the_loop_fetches_only_what_is_due(tmp_path, monkeypatch):
    fetched = []
    get = jax.device_get
    monkeypatch.setattr(
        session_module.jax, "device_get", lambda x: fetched.append(1) or get(x)
    )
    config = tiny_run.config(
        diagnostics__every=15, diagnostics__nan_check_every=30, checkpoint_every=0
    )
    train.run(config, tmp_path / "a")
    # Two logged steps, the check of the last step, and saving's own check.
    assert len(fetched) <= 4


def test_every_diagnostic_is_attended_to():
    source = inspect.getsource(train.write_what_is_due)
    for key in tiny_run.config().diagnostics:
        assert f"diagnostics.{key}" in source


def test_two_phases_share_one_state(tmp_path):
    config = tiny_run.config(
        camera__first_steps=10,
        camera__first_resolution=8,
        camera__first_batch_size=4,
        diagnostics__every=1,
    )
    asset = train.run(config, tmp_path / "a")
    assert np.isfinite(asset.params.pixels).all()
    assert json.loads((tmp_path / "a" / "finished.json").read_text())["step"] == 30


def test_generate_is_the_same_job(finished, tmp_path):
    _, asset, _ = finished
    overrides = dict(tiny_run.OVERRIDES, preview_every=15)
    prompt = overrides.pop("prompt")
    made = python_api.generate(prompt, "ssd:image", workdir=tmp_path / "b", **overrides)
    np.testing.assert_array_equal(made.params.pixels, asset.params.pixels)
    run = json.loads((tmp_path / "b" / "run.json").read_text())
    said = preset_and_overrides(run["sessions"][0]["command"])
    assert said["config"] == "ssd:image"
    assert said["overrides"]["prompt"] == "a red cube"


def test_generate_passes_on_what_is_no_config_key(monkeypatch):
    monkeypatch.setattr(python_api, "run", lambda *args, **options: (args, options))
    overrides = dict(tiny_run.OVERRIDES, allow_config_change=True)
    prompt = overrides.pop("prompt")
    (_, workdir), options = python_api.generate(prompt, "ssd:image", **overrides)
    assert workdir == "runs/ssd-image-a-red-cube-0"
    assert options["allow_config_change"] is True


def test_picture_shows_every_kind_of_rendering():
    rng = np.random.default_rng(0)
    views, xhats = rng.random((4, 8, 8, 3)), rng.random((3, 4, 4, 3))
    image = picture(views, xhats)
    assert image.shape == (16, 32, 3)
    assert image.dtype == np.uint8
    alike = np.repeat(views[:1], 4, axis=0)
    assert picture(alike, None).shape == (8, 8, 3)
    assert picture(alike, xhats).shape == (4, 16, 3)
    assert picture(rng.random((1, 8, 8, 4)), None).shape == (8, 8, 3)
    assert picture(np.full((2, 4, 4, 1), np.nan), None).max() == 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_compile_cache_is_private_and_optional(tmp_path, monkeypatch):
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    old = {name: getattr(jax.config, name) for name in names}
    assert enable_compile_cache() is None
    monkeypatch.delenv("SDSJAX_COMPILE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        folder = enable_compile_cache()
        assert folder.is_relative_to(tmp_path / "sdsjax")
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        for name, value in old.items():
            jax.config.update(name, value)
