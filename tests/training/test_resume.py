"""Stopped in any way and started again with the same command, a run ends bit for bit
where it would have ended."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from sdsjax.training import session, train

LONG = {"steps": 2000, "checkpoint_every": 40, "diagnostics__every": 500}
LONG["diagnostics__nan_check_every"] = 500
PATIENCE = 300.0
KILLS = 5  # each begins from what the one before left, wherever that was


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Processes share compiled code, as a user's do."""
    return {"SDSJAX_COMPILE_CACHE": str(tmp_path_factory.mktemp("compiled"))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """sha256 of the final state of LONG, computed in this process."""
    workdir = tmp_path_factory.mktemp("whole") / "a"
    run_here(workdir, **LONG)
    return tiny_run.final_digest(workdir)


def run_here(workdir, **overrides):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDSJAX_COMPILE_CACHE", "0")
        patch.setattr(session.exports, "export_all", lambda *_, **__: {})
        return train.run(tiny_run.config(**overrides), workdir)


def newest(workdir: Path) -> int:
    steps = (workdir / "checkpoints").glob("*/manifest.json")
    return max((int(path.parent.name) for path in steps), default=0)


def wait_for_checkpoint(process, workdir: Path, beyond: int = 0) -> None:
    deadline = time.monotonic() + PATIENCE
    while newest(workdir) <= beyond:
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process) -> None:
    process.kill()
    process.communicate()


def test_in_process_resume_is_bit_exact_and_continues_when_steps_rise(tmp_path):
    run_here(tmp_path / "whole", steps=30)
    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        save = session.Session.save

        def save_then_die(self, log):
            save(self, log)
            if self.step == 20:
                raise KeyboardInterrupt

        patch.setattr(session.Session, "save", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            run_here(stopped, steps=30)
    run_here(stopped, steps=30)
    assert tiny_run.final_digest(stopped) == tiny_run.final_digest(tmp_path / "whole")
    before = tiny_run.final_digest(stopped)
    asset = run_here(stopped, steps=40)
    assert json.loads((stopped / "finished.json").read_text())["step"] == 40
    assert tiny_run.final_digest(stopped) != before
    assert np.isfinite(asset.params.pixels).all()


@pytest.mark.slow
def test_killed_anywhere_ends_bit_identical(tmp_path, cache, uninterrupted):
    workdir = tmp_path / "a"
    process = tiny_run.start(workdir, environment=cache, **LONG)
    wait_for_checkpoint(process, workdir)
    time.sleep(random.uniform(0.0, 0.2))
    kill(process)
    assert not (workdir / "finished.json").exists()
    # The dead process's lock is stale, its last save perhaps cut in half.
    assert (workdir / "lock.json").exists()
    run_here(workdir, **LONG)
    assert tiny_run.final_digest(workdir) == uninterrupted


@pytest.mark.slow
def test_killed_many_times_ends_bit_identical(tmp_path, cache, uninterrupted):
    workdir, kills, reached = tmp_path / "a", 0, 0
    while not (workdir / "finished.json").exists():
        process = tiny_run.start(workdir, environment=cache, **LONG)
        if kills < KILLS:
            wait_for_checkpoint(process, workdir, beyond=reached)
            time.sleep(random.uniform(0.0, 0.3))
            kill(process)
            kills, reached = kills + 1, newest(workdir)
        else:
            _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, errors[-2000:]
    assert kills == KILLS
    assert tiny_run.final_digest(workdir) == uninterrupted


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_signals_checkpoint_and_say_so(tmp_path, cache, request, number, status):
    workdir = tmp_path / "a"
    process = tiny_run.start(workdir, environment=cache, **LONG)
    wait_for_checkpoint(process, workdir)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, errors[-2000:]
    step = newest(workdir)
    assert f"stopped: checkpoint {step} is written" in errors
    assert not (workdir / "lock.json").exists()
    assert (workdir / "report.html").is_file()
    if number == signal.SIGINT:  # the slow one
        # Within one step: not one of the regular checkpoints, but for chance.
        run_here(workdir, **LONG)
        whole = request.getfixturevalue("uninterrupted")
        assert tiny_run.final_digest(workdir) == whole


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_second_signal_ends_the_process_at_once():
    import subprocess
    import sys

    # The main thread sleeps in C with no bytecode run, as in a long compilation.
    code = (
        "import ctypes, sys\n"
        "from sdsjax.runs.signals import Stop\n"
        "with Stop() as stop:\n"
        "    print('ready', flush=True)\n"
        "    libc = ctypes.CDLL(None)\n"
        "    for _ in range(1000): libc.usleep(100000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tiny_run.ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    process.stdout.close()
