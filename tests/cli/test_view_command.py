"""`python -m sdsjax.view`: its mistakes, one line each, before a page is opened."""

import importlib.util
import json
import socket
import subprocess
import sys

import pytest

from sdsjax.cli.live.view_command import cli


@pytest.fixture
def no_viser(monkeypatch):
    find = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "viser" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)


@pytest.fixture
def some_viser(monkeypatch):
    find = importlib.util.find_spec
    there = lambda name, *rest: find("json" if name == "viser" else name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", there)


def mistake(capsys, *argv):
    assert cli(list(argv)) == 2
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.splitlines()
    return line


def begun(folder):
    """A run that has saved nothing yet."""
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"prompt": "a mug"}))
    return folder


def test_a_missing_extra_is_named_with_its_command(no_viser, tmp_path, capsys):
    line = mistake(capsys, str(begun(tmp_path / "a")))
    assert "pip install 'sdsjax[view]'" in line


def test_mistakes_are_one_line(some_viser, tmp_path, capsys):
    folder = str(begun(tmp_path / "a"))
    assert "RUN" in mistake(capsys)
    assert "does not exist" in mistake(capsys, str(tmp_path / "none"))
    assert "no run.json" in mistake(capsys, str(tmp_path))
    assert "named twice" in mistake(capsys, folder, folder + "/")
    assert "no checkpoint yet" in mistake(capsys, folder)
    assert "1..65535" in mistake(capsys, folder, "--port=70000")
    assert "invalid int value" in mistake(capsys, folder, "--port=x")
    assert "this machine" in mistake(capsys, folder, "--host=192.0.2.1")
    assert "this machine" in mistake(capsys, folder, "--host=no.such.host.invalid")


def test_a_port_that_is_taken_is_one_line(some_viser, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = mistake(capsys, str(begun(tmp_path / "a")), f"--port={port}")
    assert f"port {port} of 127.0.0.1 is taken" in line


@pytest.mark.slow
def test_the_program_imports_no_viewer_by_itself():
    script = (
        "import sys, sdsjax.main, sdsjax.training.train, sdsjax.cli.live.view_command; "
        "sys.exit(any(m.split('.')[0] == 'viser' or m.startswith('sdsjax.live') "
        "for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
