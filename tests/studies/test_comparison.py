"""Cases over equal pairs: what is run again, what a table says, what is subtracted."""

import json
from functools import partial

import numpy as np
import pytest

from sdsjax.files.atomic import read_rows
from sdsjax.studies import comparison, report, statistics
from sdsjax.studies.comparison import Case, Comparison, Plan
from sdsjax.studies.results import run_missing
from sdsjax.studies.runner import run
from sdsjax.studies.toybox_run import Outcome

PROMPTS = ("a red mug", "a blue house")
PLAN = Plan(PROMPTS, (0, 1), 10)
CASES = [Case(label, label, None, lambda seed: seed) for label in ("plain", "better")]
CEILINGS = {prompt: {"iou": 0.8, "psnr": 20.0} for prompt in PROMPTS}


class Invented:
    """Runs that cost nothing: "better" is .05 of IoU better, .01 more at seed 1."""

    def __init__(self):
        self.calls = []

    def run(self, name, make, settings, *, prompt, seed, steps, rate, sampler):
        assert (settings, steps, rate) == (seed, 10, 3.0)
        self.calls.append((prompt, seed, name))
        iou = (
            0.5
            + 0.1 * PROMPTS.index(prompt)
            + (0.05 + 0.01 * seed) * (name == "better")
        )
        truth = {"iou": iou, "psnr": 10.0, "ssim": 0.5, "chamfer": 0.1}
        truth["janus_rate"] = None
        return Outcome(truth, name == "plain", np.full((4, 16, 3), 0.5), 2.0)


def complete(path, root, runs, **options):
    done = read_rows(path, "key")
    jobs = comparison.jobs_of(CASES, PLAN)
    perform = partial(comparison.perform, runs, PLAN, root)
    return run_missing(jobs, perform, path, done, **options), done


@pytest.fixture
def performed(tmp_path):
    runs, path = Invented(), tmp_path / "rows.jsonl"
    ended, done = complete(path, tmp_path, runs)
    assert ended
    return runs, path, done


def test_all_cases_of_a_pair_come_before_the_next_and_none_twice(performed, tmp_path):
    runs, path, done = performed
    assert [call[:2] for call in runs.calls[::2]] == PLAN.pairs()
    assert [call[2] for call in runs.calls[:2]] == ["plain", "better"]
    # a crash in the middle of a line costs that run, and only that
    path.write_text(path.read_text()[:-40])
    assert complete(path, tmp_path, runs) == (True, done)
    assert len(runs.calls) == 9
    path.unlink()
    assert complete(path, tmp_path, runs, ends=-1.0) == (False, {})
    assert len(runs.calls) == 9


def test_differences_are_taken_within_pairs(performed):
    _, _, done = performed
    bases = {"- plain": {"better": "plain", "plain": "plain"}, "- none": {}}
    compared = Comparison(CASES, bases)
    text = comparison.table(PLAN, compared, done, CEILINGS)
    rows = [line.split(" | ") for line in text.splitlines() if "+-" in line[:60]]
    assert len(rows) == 2
    # shares .5 (iou / .8 + .5): .5625, .625, twice; their errors do not cancel ...
    each = np.array([0.5625, 0.625] * 2)
    error = each.std(ddof=1) / 2
    assert rows[0][:2] == ["| plain", f"{each.mean():.3f} +- {error:.3f}"]
    # ... but the difference's does: (.05, .05, .06, .06) / 1.6
    gaps = np.array([0.05, 0.05, 0.06, 0.06]) / 1.6
    error = gaps.std(ddof=1) / 2
    assert rows[1][4:6] == [f"{gaps.mean():+.3f} +- {error:.3f}", "-"]
    assert rows[0][4] == "-"
    assert rows[1][-1] == "4 (4 not finite) |"
    # a pair that one side lacks does not count
    kept = {key: row for key, row in done.items() if "plain | a red" not in key}
    text = comparison.table(PLAN, compared, kept, CEILINGS)
    assert f"{gaps.mean():+.3f} +- {gaps[::2].std(ddof=1) / 2**0.5:.3f}" in text
    assert json.dumps(done)  # plain numbers throughout


def test_a_sheet_that_exists_is_replaced_by_a_complete_one_only(performed, tmp_path):
    found, path = [], tmp_path / "sheet.png"

    def drawn(rows, titles, path):
        found.append(([label for label, _ in rows], titles))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "save_sheet", drawn)
        patch.setattr(comparison, "true_views", lambda prompt: (None, None, prompt))
        patch.setattr(comparison, "side_by_side", lambda views: np.zeros((4, 16, 3)))
        comparison.draw_sheet(CASES, PLAN, tmp_path / "nothing", path)
        assert found == []
        comparison.draw_sheet(CASES, PLAN, tmp_path, path)
        PLAN.picture(CASES[0], (PROMPTS[1], 0), tmp_path).unlink()
        comparison.draw_sheet(CASES, PLAN, tmp_path, path)
        path.touch()
        comparison.draw_sheet(CASES, PLAN, tmp_path, path)
    assert found == [
        (["truth", "plain", "better"], PROMPTS),
        (["truth", "better"], PROMPTS),
    ]


def test_figures_of_few_values():
    assert statistics.mean_error([2.0])[0] == 2.0
    assert np.isnan(statistics.mean_error([2.0])[1])
    np.testing.assert_allclose(statistics.mean_error([1.0, 3.0]), (2.0, 1.0))
    assert statistics.paired_difference({"a": 1.0}, {"b": 1.0})[2] == 0
    mean, error, count = statistics.paired_difference(
        {"a": 1.0, "b": 4.0}, {"a": 0.5, "b": 2.0}
    )
    np.testing.assert_allclose((mean, error), (1.25, 0.75))
    assert count == 2


def test_a_sheet_has_every_row_and_title(tmp_path):
    rows = [(label, [np.zeros((4, 16, 3))] * 2) for label in ("truth", "plain")]
    report.save_sheet(rows, PROMPTS, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 3000


def test_a_report_of_nothing_is_refused_in_one_line(tmp_path):
    experiment = comparison.comparison_experiment(
        folder=tmp_path, description="what it does", ceilings=tmp_path / "rows.jsonl",
        small=PLAN, full=PLAN, compared=lambda plan: Comparison(CASES, {}), build=None,
    )  # fmt: skip
    with pytest.raises(SystemExit, match="holds no run yet: leave out --only-report"):
        run(["--toybox", "--only-report", "--out", str(tmp_path / "none")], experiment)
    assert not (tmp_path / "none").exists()
