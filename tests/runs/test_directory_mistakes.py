"""A run directory that is not what it should be: one line that says why."""

import json
import subprocess

import pytest

from sdsjax.runs import run_directory
from sdsjax.runs.run_directory import (
    RunDirectory,
    RunError,
    git_revision,
    inspect,
    read_json,
)

CONFIG = {"prompt": "a red mug", "steps": 3}


def made(folder, record=None, config=CONFIG):
    folder.mkdir()
    said = {"format": "sdsjax-run-1"} | (record or {})
    (folder / "run.json").write_text(json.dumps(said))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("text", "said"), [("{", "cannot be read"), ("[1]", "holds no JSON object")]
)
def test_damaged_files_are_named(tmp_path, text, said):
    path = tmp_path / "run.json"
    assert read_json(path) is None
    path.write_text(text)
    with pytest.raises(RunError, match=said) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_a_directory_of_another_version_or_without_its_config_is_refused(tmp_path):
    other = made(tmp_path / "a", {"format": "sdsjax-run-9"})
    with pytest.raises(RunError, match="'sdsjax-run-9', this one writes 'sdsjax-run-1"):
        inspect(other, CONFIG)
    lost = made(tmp_path / "b", config=None)
    with pytest.raises(RunError, match=r"has lost its config\.json"):
        inspect(lost, CONFIG)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunError, match="is a file: choose a directory"):
        inspect(file, CONFIG)


def test_a_directory_that_cannot_be_listed_is_one_line(tmp_path, monkeypatch):
    def refused(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_directory.os, "listdir", refused)
    with pytest.raises(RunError, match="cannot be read: Permission denied") as error:
        inspect(tmp_path, CONFIG)
    assert "\n" not in str(error.value)


def test_what_a_killed_run_had_begun_is_cleared_away(tmp_path):
    """Leftovers alone make no foreign directory, and go when a run begins."""
    (tmp_path / "config.json.123.tmp").write_text("{")
    assert inspect(tmp_path, CONFIG) == {}
    with RunDirectory(tmp_path, CONFIG, command=["now"]) as directory:
        assert directory.folder == tmp_path
        names = {path.name for path in tmp_path.iterdir()}
        assert names >= {"config.json", "run.json", "lock.json"}
        assert not any(name.endswith(".tmp") for name in names)
    assert not (tmp_path / "lock.json").exists()


def test_without_git_the_revision_is_unknown(monkeypatch):
    asked = []

    def run(command, **how):
        asked.append(command)
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(run_directory.subprocess, "run", run)
    monkeypatch.setattr(run_directory.Path, "exists", lambda path: True)
    assert git_revision() is None
    assert asked[0][0] == "git"
    monkeypatch.setattr(run_directory.Path, "exists", lambda path: False)
    assert git_revision() is None
    assert len(asked) == 1  # an installed package asks nobody
