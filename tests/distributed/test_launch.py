"""Which processes there are, and what is said of one that ended."""

import sys

import pytest

from sdsjax.distributed.launch import Launch, LaunchError, find_launch, find_part
from sdsjax.distributed.supervisor import MARK, epitaph, supervise

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
}
MPI = {
    "OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:5",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
}
POD = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
LAUNCH = Launch("10.0.0.1:1234", 2, 1, "flags")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (SLURM, (2, 1)),
        # an allocation's shell, and a step of one task in a job of many
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (MPI, (4, 3)),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (POD, (2, 1)),
        (POD | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_an_environment_counts_where_it_names_several_processes(environ, expected):
    found = find_launch(None, None, None, environ)
    assert (found and found[1:3]) == expected
    assert found is None or found.coordinator is None


@pytest.mark.parametrize(
    ("environ", "expected"), [({}, (0, 1)), (MPI, (3, 4))], ids=["alone", "Open MPI"]
)
def test_independent_work_is_shared_out_without_a_coordinator(environ, expected):
    assert find_part(None, None, None, environ) == expected
    assert find_part(None, 3, 2, environ) == (2, 3)
    shares = [find_part(None, 3, k, {}).of(7) for k in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_pod_cannot_work_apart():
    with pytest.raises(LaunchError, match="not tried") as error:
        find_part(None, None, None, POD)
    assert "\n" not in str(error.value)


def test_flags_go_before_the_environment():
    assert find_launch("h:1", 2, 1, SLURM | MPI) == Launch("h:1", 2, 1, "flags")
    assert find_launch("h:1", 1, 0, SLURM) is None
    assert find_launch("auto", None, None, {}) is not None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("h:1", None, 0), "--num_processes is missing"),
        ((None, 2, 0), "--coordinator_address is missing"),
        (("h:1", 2, None), "--process_id is missing"),
        (("auto", 2, None), "--process_id is missing"),
        (("h", 2, 0), "no HOST:PORT"),
        (("h:port", 2, 0), "no HOST:PORT"),
        (("h:70000", 2, 0), "no HOST:PORT"),
        (("h:1", 2, 2), "numbered 0..num_processes - 1"),
        (("h:1", 2, -1), "numbered 0..num_processes - 1"),
        (("h:1", 0, 0), "numbered 0..num_processes - 1"),
    ],
)
def test_flags_that_cannot_be_are_one_line(flags, said):
    address, count, number = flags
    with pytest.raises(LaunchError, match=said) as error:
        find_launch(address, count, number, {})
    assert "\n" not in str(error.value)


def test_the_signal_and_the_moment_say_what_to_do():
    line, status = epitaph(6, False, "DEADLINE_EXCEEDED: Deadline Exceeded", LAUNCH)
    assert status == 2
    assert "process 1 of 2 could not join the others at 10.0.0.1:1234" in line
    line, status = epitaph(6, True, "", LAUNCH)
    assert status == 6
    assert "another process" in line
    line, status = epitaph(9, True, "", LAUNCH)
    assert status == 137
    assert "SIGKILL" in line


DYING = """
import os, sys
print("sdsjax: joined as process 1 of 2", file=sys.stderr)
print("[Gloo] Rank 0 is connected to 1 peer ranks.", flush=True)
print("a result", flush=True)
print("a warning", file=sys.stderr)
for line in ("F1128 06:25:31.957311 30480 client.h:80] Terminating. absl::Status: "
             "UNAVAILABLE: gone", "", "1", "The tasks have crashed.", "RPC: /xla",
             "*** Check failure stack trace: ***", "    @     0x7f1028840634  absl"):
    print(line, file=sys.stderr)
sys.stderr.flush()
os.abort()
"""


def test_a_page_of_stack_becomes_one_line(capfd, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.delenv(MARK, raising=False)
    assert supervise([sys.executable, "-c", DYING], LAUNCH) == 6
    out, errors = capfd.readouterr()
    assert out == "a result\n"
    lines = [line for line in errors.splitlines() if line]
    assert lines[:2] == ["sdsjax: joined as process 1 of 2", "a warning"]
    assert len(lines) == 3
    assert lines[2].startswith("sdsjax: error: another process of this run has ended")


def test_a_child_that_ends_by_itself_has_its_own_status_and_line(capfd, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    code = "import sys; print('sdsjax: error: x', file=sys.stderr); sys.exit(3)"
    assert supervise([sys.executable, "-c", code], LAUNCH) == 3
    assert capfd.readouterr().err == "sdsjax: error: x\n"
