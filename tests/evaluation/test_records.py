"""scores.json: numbers of the last step, kept beside each other, whatever is in it."""

import json

import pytest

from sdsjax.evaluation.records import (
    figures_of,
    may_be_replaced,
    read_figures,
    read_record,
    write_record,
)

CLIP = {"similarity": 0.3, "r_precision": 0.5, "by": {"similarity": "a"}}


def finished(folder, step):
    (folder / "finished.json").write_text(json.dumps({"step": step}))


def test_sections_are_kept_until_the_run_goes_on(tmp_path):
    finished(tmp_path, 30)
    write_record(tmp_path, 30, {"clip": CLIP})
    lpips = {"truth": 0.2, "source": float("nan"), "by": {"truth": "b", "source": "b"}}
    write_record(tmp_path, 30, {"lpips": lpips})
    figures = read_figures(tmp_path)
    # one without what it was measured by, or that is no number, is no figure
    assert {k: tuple(f) for k, f in figures.items()} == {
        "clip_similarity": (0.3, "a"),
        "lpips_truth": (0.2, "b"),
    }
    finished(tmp_path, 60)
    assert read_record(tmp_path) == {}
    write_record(tmp_path, 60, {"lpips": lpips})
    assert "clip" not in read_record(tmp_path)


def test_a_file_of_somebody_else_is_no_record_and_stays(tmp_path):
    finished(tmp_path, 1)
    assert may_be_replaced(tmp_path)
    for text in ("mine", "[]", '{"step": 1, "clip": {"similarity": 1}}'):
        (tmp_path / "scores.json").write_text(text)
        assert not may_be_replaced(tmp_path)
        assert read_figures(tmp_path) == {}
    write_record(tmp_path, 1, {})
    assert may_be_replaced(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        {"clip": 3},
        {"clip": {"similarity": True, "by": {"similarity": "a"}}},
        {"clip": {"similarity": "0.3", "by": {"similarity": "a"}}},
        {"clip": {"similarity": 0.3, "by": "a"}},
        {"clip": {"similarity": 0.3, "by": {"similarity": 4}}},
        {"lpips": [1]},
    ],
)
def test_odd_records_hold_no_figures(record):
    assert figures_of(record) == {}
