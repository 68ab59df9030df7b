"""The accelerator's script: what fails or takes too long leaves the rest alone."""

import pytest
from experiment_folder import load

from sdsjax.files.atomic import read_rows


@pytest.fixture(scope="module")
def accelerator():
    return load("accelerator")


def measured(accelerator, folder, *more):
    """The rows of the small plan."""
    accelerator.main(["--out", str(folder), "--runs", str(folder), *more])
    return read_rows(folder / "small.jsonl", "key")


@pytest.mark.slow
def test_a_measurement_is_a_process_that_says_what_it_knows(accelerator, tmp_path):
    found = measured(accelerator, tmp_path, "--only", "machine")["machine"]["found"]
    assert found["platform"] == "cpu"
    assert found["copy_gb_s"] > 0
    assert found["matmul_float32_tflop_s"] > 0
    table = (tmp_path / "small.md").read_text()
    assert "| matmul float32 tflop s | " in table
    assert table.count("Not measured.") == len(accelerator.MEASUREMENTS) - 1


def test_what_takes_too_long_is_ended_and_said(accelerator, tmp_path):
    said = "--only", "machine", "--seconds", "0.05"
    found = measured(accelerator, tmp_path, *said)["machine"]["found"]
    assert found == {"error": "took longer than 0.05 s"}


@pytest.mark.slow
def test_what_fails_is_said_and_the_next_is_measured(
    accelerator, tmp_path, monkeypatch
):
    monkeypatch.setattr(accelerator, "MEASUREMENTS", ("nothing", "machine"))
    plan = accelerator.Plan("small", ("nothing", "machine"))
    monkeypatch.setattr(accelerator, "Plan", lambda size: plan)
    rows = measured(accelerator, tmp_path)
    assert (
        rows["nothing"]["found"]["error"]
        == "ModuleNotFoundError: No module named 'nothing'"
    )
    assert "date" in rows["machine"]["found"]
