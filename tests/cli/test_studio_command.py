"""`python -m sdsjax.studio`: its mistakes, and the jobs that the panel makes."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

from sdsjax.cli.live.studio_command import Planner, cli, config_choices, parse_settings
from sdsjax.live.gallery import Entry, download, formats_of, list_runs, table
from sdsjax.live.jobs import Job, Jobs
from sdsjax.runs.run_directory import RunError
from sdsjax.training.config import ConfigError


def mistake(capsys, *argv):
    assert cli(list(argv)) == 2
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.splitlines()
    return line


@pytest.fixture
def no_viser(monkeypatch):
    find = importlib.util.find_spec

    def absent(name, *rest):
        return None if name == "viser" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", absent)


def test_mistakes_are_one_line(no_viser, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    assert "is a file" in mistake(capsys, str(file))
    assert "folder above it" in mistake(capsys, str(run))
    assert "there is no folder" in mistake(capsys, str(tmp_path / "a" / "b"))
    assert "pip install 'sdsjax[view]'" in mistake(capsys, str(tmp_path))
    assert "unrecognized" in mistake(capsys, str(tmp_path), "--hots=127.0.0.1")
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def planner():
    return Planner(Path("runs"), config_choices())


def test_the_panel_says_what_the_command_line_would(planner):
    job = planner("a red mug", "sds:image", 3, 40, "resolution=8 'batch_size=2'")
    assert job.folder == Path("runs/sds-image-a-red-mug-3")
    program, *words = job.command
    assert program == sys.executable
    assert words == [
        *("-m", "sdsjax.main", "--config=sds:image", "--config.prompt=a red mug"),
        *("--config.seed=3", "--config.resolution=8", "--config.batch_size=2"),
        *("--config.steps=40", "--workdir=runs/sds-image-a-red-mug-3"),
    ]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("a red mug", "nonesuch", 0, 0, ""), "unknown config"),
        (("a red mug", "/tmp/evil.py", 0, 0, ""), "unknown config"),
        (("a red mug", "ssd", 0, 0, "resolution"), "key=value"),
        (("a red mug", "ssd", 0, 0, "'a=b"), "close every quote"),
        (("a red mug", "ssd", 0, 0, "resolutoin=8"), "did you mean"),
        (("a red mugg", "ssd", 0, 0, ""), "mug"),
        (("", "ssd", 0, 0, ""), "prompt"),
    ],
)
def test_mistakes_of_the_panel_are_one_line(planner, said, message):
    with pytest.raises(ConfigError, match=message) as caught:
        planner(*said)
    assert "\n" not in str(caught.value)


def test_settings_are_split_as_by_a_shell():
    text = "--config.prompt='a mug' steps=3"
    assert parse_settings(text) == {"prompt": "a mug", "steps": "3"}


def python(folder, script):
    return Job(folder, [sys.executable, "-c", script])


def wait_for(question):
    until = time.monotonic() + 60
    while not question() and time.monotonic() < until:
        time.sleep(0.02)
    assert question()


WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("sdsjax: stopped", file=sys.stderr),
                                          sys.exit(143)))
print("sdsjax: began", file=sys.stderr, flush=True)
time.sleep(60)
"""


def test_jobs_run_one_after_the_other_and_can_be_stopped(tmp_path):
    with Jobs() as jobs:
        first = python(tmp_path / "a", WAITS)
        second = python(tmp_path / "b", "raise SystemExit('sdsjax: error: no')")
        third = python(tmp_path / "c", "print('well')")
        dropped = python(tmp_path / "d", "print('never')")
        assert all(map(jobs.add, (first, second, third, dropped)))
        assert not jobs.add(python(tmp_path / "a", ""))  # its directory is in use
        wait_for(lambda: first.news == "began")
        assert [job.status for job in jobs.list()] == ["running", *["waiting"] * 3]
        assert jobs.stop(lambda job: job is dropped) == 1
        assert jobs.stop(lambda job: job is first) == 1
        wait_for(lambda: third.status == "done")
        assert [job.status for job in jobs.list()] == [
            *("stopped", "failed", "done", "stopped")
        ]
        assert (first.news, second.news) == ("stopped", "error: no")
        last = python(tmp_path / "a", WAITS)
        assert jobs.add(last)
        wait_for(lambda: last.news == "began")
    assert (last.status, last.news) == ("stopped", "stopped")


def test_a_program_that_is_not_there_fails_alone(tmp_path):
    with Jobs() as jobs:
        job = Job(tmp_path, [str(tmp_path / "none")])
        jobs.add(job)
        wait_for(lambda: job.status == "failed")
    assert "cannot be started" in job.news


def test_the_gallery_lists_runs_and_escapes_what_they_say(tmp_path):
    assert list_runs(tmp_path / "none") == []
    assert table([]) == "no runs yet"
    for name, kind in (("a", "gaussians"), ("b", "nerf"), ("c", "image")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        config = {"prompt": "a <b> | mug", "representation": {"name": kind}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "else").mkdir()
    entries = list_runs(tmp_path)
    assert {one.folder.name for one in entries} == {"a", "b", "c"}
    shown = Entry(tmp_path / "a", "a <b> | mug", 40, True, {"iou": 0.9})
    assert "| a | a &lt;b&gt; \\| mug | 40 | 0.900 |" in table([shown])
    assert "ply" in formats_of(tmp_path / "a")
    assert formats_of(tmp_path / "b") == ["mesh", "mesh_colours"]
    assert formats_of(tmp_path / "c") == []
    with pytest.raises(RunError, match="no checkpoint yet"):
        download(tmp_path / "a", "ply")
