"""The main command as one of several processes: it joins, runs and leaves in order."""

import pytest

from sdsjax import main
from sdsjax.distributed import hosts
from sdsjax.distributed.launch import Launch
from sdsjax.runs.signals import Interrupted
from sdsjax.training.config import ConfigError

LAUNCH = ["--coordinator_address=h:1", "--num_processes=2", "--process_id=1"]


@pytest.fixture
def joined(monkeypatch):
    """What a process does that joins others, in order, and how it leaves."""
    done = []
    monkeypatch.setattr(main, "is_supervised", lambda: True)
    monkeypatch.setattr(main, "end_with_parent", lambda: done.append("watch"))
    monkeypatch.setattr(hosts, "join", lambda launch: done.append(launch) or "joined")
    monkeypatch.setattr(hosts, "leave", lambda status: done.append(int(status)))
    return done


def test_it_joins_before_it_runs_and_leaves_with_its_status(
    joined, monkeypatch, capsys
):
    monkeypatch.setattr(main, "run", lambda arguments: joined.append("run") or 0)
    assert main.cli(["--config=ssd", *LAUNCH]) == 0
    assert joined == ["watch", Launch("h:1", 2, 1, "flags"), "run", 0]
    assert capsys.readouterr().err == "joined\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError("no\nsuch key"), 2, "sdsjax: error: no such key"),
        (hosts.Elsewhere("process 0: full", 1), 1, "process 0: full"),
        (Interrupted(15, 30), 143, ""),
    ],
)
def test_what_ends_it_is_its_status_and_one_line(
    error, status, said, joined, monkeypatch, capsys
):
    def run(arguments):
        raise error

    monkeypatch.setattr(main, "run", run)
    assert main.cli(["--config=ssd", *LAUNCH]) == status
    assert joined[-1] == status  # so that the others learn of it
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == bool(said)
    assert said in "".join(lines)


def test_a_bug_is_told_with_its_traceback_and_nobody_is_left_waiting(
    joined, monkeypatch, capsys
):
    def run(arguments):
        raise KeyError("a bug")

    monkeypatch.setattr(main, "run", run)
    assert main.cli(["--config=ssd", *LAUNCH]) == 1
    assert joined[-1] == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_first_process_starts_the_one_that_joins(monkeypatch):
    started = []
    monkeypatch.setattr(main, "is_supervised", lambda: False)
    monkeypatch.setattr(main, "supervise", lambda *args: started.append(args) or 6)
    argv = ["--config=ssd", *LAUNCH]
    assert main.cli(argv) == 6
    ((command, launch),) = started
    assert command[1:] == ["-m", "sdsjax.main", *argv]
    assert launch == Launch("h:1", 2, 1, "flags")


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def run(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "run", run)
    assert main.cli(["--config=ssd"]) == 130
    assert capsys.readouterr().err == "sdsjax: interrupted\n"
