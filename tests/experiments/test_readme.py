"""CONTRIBUTING.md's example runs as it stands, and README.md's table is complete."""

import json
import re
import runpy
import sys

from experiment_folder import FOLDER

TEXT = (FOLDER / "README.md").read_text()
MAKING = (FOLDER / "CONTRIBUTING.md").read_text()


def test_the_example_runs_and_begins_its_readme(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", MAKING, re.DOTALL)
    script = tmp_path / "mean_of_noises" / "run.py"
    script.parent.mkdir()
    script.write_text(code)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    results = script.parent / "results"
    rows = (results / "small.jsonl").read_text().split("\n\n")
    assert [json.loads(row)["key"] for row in rows] == ["n = 4", "n = 16"]
    table = (results / "small.md").read_text()
    assert re.search(r"\| 4 \| 0\.\d{3} \+- 0\.\d{3} \|\n\| 16 \|", table)
    assert (results / "small.png").stat().st_size > 3000
    readme = (script.parent / "README.md").read_text()
    assert readme.startswith("# How far the mean of n noises is from zero\n")
    assert "has a deviation of 1 / sqrt(n)" in readme
    assert table.strip() in readme


def test_every_experiment_is_in_the_table_with_a_command_that_is_there():
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\) \| .+? \| `(\S+)", TEXT, re.MULTILINE)
    there = {path.parent.name for path in FOLDER.glob("*/run.py")}
    assert {name for name, _, _ in rows} == there
    for name, link, command in rows:
        assert link == name
        assert (FOLDER / command.strip("`,")).is_file()
    for folder in there:
        assert "**Verdict" in (FOLDER / folder / "README.md").read_text()
