"""The runner: what it asks of a command line, what it measures, what it leaves."""

import json
from typing import NamedTuple

import numpy as np
import pytest

from sdsjax.studies.report import markdown_table, plus_minus
from sdsjax.studies.results import pack_array, unpack_array
from sdsjax.studies.runner import Experiment, Option, run


class Plan(NamedTuple):
    seeds: int
    rates: tuple[float, ...] = (1.0,)
    names: tuple[str, ...] = ("a", "b")
    quick: bool = False


@pytest.fixture
def measured():
    return []


@pytest.fixture
def experiment(tmp_path, measured):
    def jobs(run):
        yield "first", 1
        # asked for once the first row is there
        yield f"second after {run.rows['first']['value']}", run.plan

    def worker(run):
        measured.append("worker")

        def perform(job):
            measured.append(job)
            return {"value": len(measured)}

        return perform

    def table(run):
        heads = ["key", "value"]
        rows = [[key, f"{row['value']}"] for key, row in run.rows.items()]
        return "\n".join(markdown_table(heads, rows)) + "\n"

    return Experiment(
        tmp_path, "A title.\n\nA claim.\n", Plan(2), Plan(3), jobs=jobs, worker=worker,
        table=table, figure=lambda run: run.file(".png").write_text("drawn"),
        options={
            "rates": Option("factors"),
            "names": Option("some", ("a", "b")),
            "quick": Option("less"),
        },
    )  # fmt: skip


def test_rows_are_resumed_and_the_report_is_made_of_them_alone(
    experiment, measured, tmp_path, capsys
):
    run([], experiment)
    assert measured == ["worker", 1, Plan(2)]
    results = tmp_path / "results"
    text = (results / "small.md").read_text()
    assert text == "| key | value |\n|---|---|\n| first | 2 |\n| second after 2 | 3 |\n"
    assert capsys.readouterr().out == text + "\n"
    rows = (results / "small.jsonl").read_text()
    (results / "small.md").unlink()
    (results / "small.png").unlink()
    run([], experiment)
    run(["--only-report"], experiment)
    assert measured == ["worker", 1, Plan(2)]
    assert (results / "small.md").read_text() == text
    assert (results / "small.png").read_text() == "drawn"
    assert (results / "small.jsonl").read_text() == rows
    run(["--restart"], experiment)
    assert measured[3:] == ["worker", 1, Plan(2)]


def test_the_command_line_changes_the_plan(experiment, measured, tmp_path):
    words = ["--seeds", "5", "--rates", "1", "3", "--names", "b", "--quick", "--out"]
    run(["--full", *words, str(tmp_path / "out")], experiment)
    assert measured[-1] == Plan(5, (1.0, 3.0), ("b",), quick=True)
    assert (tmp_path / "out" / "full.md").exists()
    chosen = experiment._replace(small=Plan(2)._replace(seeds=(0, 1)))
    run(["--seeds", "3"], chosen)
    assert measured[-1].seeds == (0, 1, 2)
    for wrong in (["--names", "c"], ["--small", "--full"], ["--steps", "3"]):
        with pytest.raises(SystemExit):
            run(wrong, experiment)


def test_no_job_is_begun_once_the_time_is_up(experiment, measured):
    with pytest.raises(SystemExit, match="holds no run yet"):
        run(["--minutes", "-1"], experiment)
    assert measured == []


def test_a_flag_chooses_among_the_experiments_of_a_folder(experiment, measured):
    other = experiment._replace(flag="--other", stem="other-{size}")
    run(["--other", "--full"], experiment, other)
    assert (experiment.folder / "results" / "other-full.jsonl").exists()
    assert not (experiment.folder / "results" / "full.jsonl").exists()


def test_a_benchmark_is_measured_anew_and_reported_from_its_document(tmp_path):
    counts = []

    def measure(run):
        counts.append(run.plan)
        return {"seconds": len(counts)}

    benchmark = Experiment(
        tmp_path, "A benchmark.", Plan(1), Plan(1), measure=measure,
        table=lambda run: f"{run.rows['seconds']} s\n",
    )  # fmt: skip
    with pytest.raises(SystemExit, match="holds no run yet"):
        run(["--only-report"], benchmark)
    run([], benchmark)
    run([], benchmark)
    run(["--only-report"], benchmark)
    assert len(counts) == 2
    assert json.loads((tmp_path / "results" / "small.json").read_text()) == {
        "seconds": 2
    }
    assert (tmp_path / "results" / "small.md").read_text() == "2 s\n"


def test_a_readme_is_begun_and_never_overwritten(experiment, tmp_path):
    run([], experiment)
    readme = tmp_path / "README.md"
    text = readme.read_text()
    assert text.startswith("# A title\n\n**Claim.** A claim.\n")
    assert "| first | 2 |" in text
    assert "**Verdict.** Open" in text
    readme.write_text("mine")
    run([], experiment)
    assert readme.read_text() == "mine"


def test_arrays_survive_a_row_bit_for_bit():
    values = np.array([[0.1, np.nan], [np.inf, -0.0]], np.float32)
    back = unpack_array(json.loads(json.dumps(pack_array(values))))
    assert back.dtype == values.dtype
    assert back.tobytes() == values.tobytes()
    assert back.shape == values.shape
    assert plus_minus(1.23456, 0.0449) == "1.235 +- 0.04"
