"""Two processes of two devices each, over loopback, are one run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_run

from sdsjax.training import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.name == "nt", reason="processes are watched over on POSIX"),
]
SIZES = {"batch_size": 4, "diagnostics__every": 10, "preview_every": 30}
PATIENCE = 240.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("compiled"))


def start(workdir, cache, process, port, *more, devices=2, **overrides):
    environment = {
        **os.environ,
        "PYTHONPATH": str(tiny_run.ROOT),
        "JAX_PLATFORMS": "cpu",
        "SDSJAX_COMPILE_CACHE": cache,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
        " --xla_backend_optimization_level=0",
    }
    command = tiny_run.command(workdir, **{**SIZES, **overrides})
    if process is not None:
        command += [
            f"--coordinator_address=localhost:{port}",
            "--num_processes=2",
            f"--process_id={process}",
        ]
    return subprocess.Popen(
        [*command, *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(workdir, cache, **overrides):
    port = free_port()
    return [start(workdir, cache, i, port, **overrides) for i in range(2)]


def ended(processes):
    """[(exit status, lines on stderr)] once all have ended."""
    found = []
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        found.append((process.returncode, errors.splitlines()))
    return found


def error_lines(lines):
    return [line for line in lines if "error" in line]


def pixels(workdir, **overrides):
    asset = train.run(tiny_run.config(**{**SIZES, **overrides}), workdir)
    return np.asarray(asset.params.pixels)


def newest(workdir) -> int:
    steps = (workdir / "checkpoints").glob("*/manifest.json")
    return max((int(path.parent.name) for path in steps), default=0)


LONELY = "test_others_that_never_come_are_waited_for_a_minute"


@pytest.fixture(scope="module", autouse=True)
def lonely(request, tmp_path_factory, cache):
    """The directory, and of two processes that nobody joins (exit status, lines on
    stderr, seconds): they wait while the other tests run."""
    if not any(item.name == LONELY for item in request.session.items):
        yield None
        return
    workdir, began = tmp_path_factory.mktemp("lonely") / "a", time.monotonic()
    processes = [start(workdir, cache, i, free_port()) for i in range(2)]

    def waited(process):
        return *ended([process])[0], time.monotonic() - began

    with ThreadPoolExecutor(2) as watching:
        yield workdir, [watching.submit(waited, process) for process in processes]


def test_two_processes_make_what_one_makes(tmp_path, cache):
    (status, errors), (other, others) = ended(start_two(tmp_path / "two", cache))
    assert (status, other) == (0, 0), (errors, others)
    assert any("4 of 4 device(s) (cpu) of 2 processes" in line for line in errors)
    assert len(others) == 1  # that it joined
    one = start(tmp_path / "one", cache, None, None, devices=1)
    assert ended([one])[0][0] == 0
    np.testing.assert_allclose(
        pixels(tmp_path / "two"), pixels(tmp_path / "one"), rtol=1e-4, atol=1e-5
    )
    for name in ("metrics.json", "report.html", "image.png", "history.jsonl"):
        assert (tmp_path / "two" / name).is_file()
    assert not (tmp_path / "two" / "lock.json").exists()
    rows = (tmp_path / "two" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [10, 20, 30]
    # Two processes' run goes on in one, and one's in two.
    one = start(tmp_path / "two", cache, None, None, devices=1, steps=40)
    assert ended([one])[0][0] == 0
    assert {s for s, _ in ended(start_two(tmp_path / "one", cache, steps=40))} == {0}
    np.testing.assert_allclose(
        pixels(tmp_path / "two", steps=40),
        pixels(tmp_path / "one", steps=40),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_killed_process_ends_both_and_the_same_command_goes_on(tmp_path, cache):
    long = {"steps": 200, "checkpoint_every": 20, "preview_every": 0}
    whole = ended(start_two(tmp_path / "whole", cache, **long))
    assert {status for status, _ in whole} == {0}, whole
    workdir, reached = tmp_path / "killed", 0
    for victim in (1, 0):
        processes = start_two(workdir, cache, **long)
        deadline = time.monotonic() + PATIENCE
        while newest(workdir) <= reached:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        reached = newest(workdir)
        processes[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        status, lines = ended([processes[1 - victim]])[0]
        assert time.monotonic() - killed < 60
        assert status == 6, lines
        assert len(error_lines(lines)) == 1, lines
        assert "another process of this run has ended" in error_lines(lines)[0]
        processes[victim].communicate()
    assert {s for s, _ in ended(start_two(workdir, cache, **long))} == {0}
    assert tiny_run.final_digest(workdir) == tiny_run.final_digest(tmp_path / "whole")


def test_a_signal_to_one_stops_both_after_a_checkpoint(tmp_path, cache):
    long = {"steps": 100_000, "checkpoint_every": 20, "preview_every": 0}
    processes = start_two(tmp_path / "a", cache, **long)
    deadline = time.monotonic() + PATIENCE
    while not newest(tmp_path / "a"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    found = ended(processes)
    assert [status for status, _ in found] == [143, 143], found
    step = newest(tmp_path / "a")
    assert any(f"stopped: checkpoint {step} is written" in x for x in found[0][1])
    assert not (tmp_path / "a" / "lock.json").exists()


def test_two_configs_are_refused_by_both_and_nothing_is_written(tmp_path, cache):
    port, flags = free_port(), ([], ["--config.seed=7"])
    processes = [
        start(tmp_path / "a", cache, i, port, *flags[i], seed=3) for i in range(2)
    ]
    for status, lines in ended(processes):
        assert status == 2, lines
        assert len(error_lines(lines)) == 1, lines
        assert "process 1 has another config than process 0" in error_lines(lines)[0]
    assert not (tmp_path / "a").exists()


def test_what_only_one_process_refuses_ends_both(tmp_path, cache):
    port, flags = free_port(), ([], ["--config.stepz=7"])
    processes = [start(tmp_path / "a", cache, i, port, *flags[i]) for i in range(2)]
    (status, first), (other, second) = ended(processes)
    assert (status, other) == (2, 2), (first, second)
    assert "unknown config key 'stepz'" in error_lines(second)[0]
    assert len(error_lines(first)) == len(error_lines(second)) == 1
    assert not (tmp_path / "a").exists()


def test_a_batch_that_two_processes_cannot_share_is_one_line(tmp_path, cache):
    for status, lines in ended(start_two(tmp_path / "a", cache, batch_size=3)):
        assert status == 2, lines
        assert len(error_lines(lines)) == 1, lines
        assert "do not divide over 2 processes" in error_lines(lines)[0]
    assert not (tmp_path / "a").exists()


def test_others_that_never_come_are_waited_for_a_minute(lonely):
    workdir, found = lonely
    for status, lines, seconds in (each.result() for each in found):
        assert status == 2, lines
        assert len(lines) == 1, lines
        assert "could not join the others at localhost:" in lines[0]
        assert 55 < seconds < 120
    assert not workdir.exists()


def test_the_program_of_one_process_is_not_supervised(tmp_path):
    command = [sys.executable, "-m", "sdsjax.main", "--version", "--num_processes=1"]
    environment = {**os.environ, "PYTHONPATH": str(tiny_run.ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
