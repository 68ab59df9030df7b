"""A list of prompts on several hosts: each makes its part, whatever the others do."""

import os
import re
import signal
import subprocess
import time

import pytest
import tiny_run

PROMPTS = ("a red ball", "a blue ball", "a green ball", "a yellow ball")
PATIENCE = 240.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's"),
]


def start(root, file, *more, **overrides):
    command = tiny_run.command(root, **overrides)
    # the prompts are the file's
    command = [word for word in command if not word.startswith("--config.prompt=")]
    return subprocess.Popen(
        [*command, f"--prompts={file}", "--assets_per_device=1", *more],
        env={**os.environ, "PYTHONPATH": str(tiny_run.ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def digests(root):
    return {
        path.parent.name: tiny_run.final_digest(path.parent)
        for path in root.glob("*/finished.json")
    }


def shown(root):
    return re.findall(r"waiting|finished", (root / "index.html").read_text())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def test_two_hosts_make_the_list_and_a_killed_one_is_made_up_for(tmp_path, file):
    long = {"steps": 400, "checkpoint_every": 20}
    whole = tmp_path / "whole"
    status, errors = ended(start(whole, file, **long))
    assert status == 0, errors
    assert len(digests(whole)) == len(PROMPTS)

    root, two = tmp_path / "hosts", "--num_processes=2"
    first = start(root, file, two, "--process_id=0", **long)
    second = start(root, file, two, "--process_id=1", **long)
    folder = root / next(name for name in digests(whole) if "blue" in name)
    deadline = time.monotonic() + PATIENCE
    while not list(folder.glob("checkpoints/*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    second.communicate()
    # the other one has its own two, and ends as if nothing had happened
    status, errors = ended(first)
    assert status == 0, errors
    assert "process 0 of 2: 2 asset(s)" in errors
    own = {n: sha for n, sha in digests(whole).items() if "red" in n or "green" in n}
    assert digests(root) == own
    # one process alone goes on where the killed one was; with one asset left instead of
    # two its step would be another program, and the end equal to rounding
    status, errors = ended(start(root, file, **long))
    assert status == 0, errors
    assert "2 of 4 are finished already" in errors
    assert re.search(r"continuing from step \d+", errors)
    assert digests(root) == digests(whole)
    assert "waiting" not in shown(root)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (("--num_processes=5", "--process_id=0"), "5 processes for the 4 prompt"),
        (("--num_processes=2",), "pass --num_processes and --process_id, both"),
        (("--num_processes=2", "--process_id=2"), "numbered 0..num_processes - 1"),
        (("--coordinator_address=auto",), "work apart"),
    ],
)
def test_numbers_that_cannot_be_are_one_line(numbers, said, tmp_path, file):
    status, errors = ended(start(tmp_path / "hosts", file, *numbers))
    assert status == 2
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "hosts").exists()
