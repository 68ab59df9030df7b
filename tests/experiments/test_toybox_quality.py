"""The quality experiment's bookkeeping: resuming, choosing, the table."""

import importlib.util
from pathlib import Path

import pytest

from sdsjax.files.atomic import read_rows
from sdsjax.toybox.world.captions import parse_caption

PATH = Path(__file__).parents[2] / "experiments" / "toybox_quality" / "run.py"


@pytest.fixture(scope="module")
def quality():
    spec = importlib.util.spec_from_file_location("toybox_quality", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def invented(quality, monkeypatch):
    """Runs cost nothing: SDS is best at 50, SSD at 300, and the ceiling is 1 and 20."""
    calls = []

    def truth(iou, psnr):
        return {"truth": {"iou": iou, "psnr": psnr, "chamfer": 0.1, "janus_rate": None}}

    def distil(job, plan, root):
        calls.append(job.key())
        best = {"sds": 50.0, "ssd": 300.0}[job.estimator]
        return truth(0.8 - abs(job.setting - best) / 1000, 16 + job.seed)

    monkeypatch.setattr(quality, "distil", distil)
    monkeypatch.setattr(quality, "fit_ceiling", lambda job, plan: truth(1.0, 20.0))
    return calls


def test_prompts_are_captions_and_tuning_prompts_are_not_reported(quality):
    full = quality.FULL
    for prompt in (*full.tune, *full.report):
        parse_caption(prompt)
    assert len(full.tune) == 4
    assert len(set(full.report)) == 12
    assert not set(full.tune) & set(full.report)


def test_tunes_reports_and_resumes(quality, invented, tmp_path):
    plan, path = quality.FULL, tmp_path / "full.jsonl"
    done = quality.perform(quality.tuning_jobs(plan), plan, path, tmp_path)
    assert len(invented) == 32
    chosen = quality.choose(plan, done)
    assert chosen == {"sds": 50.0, "ssd": 300.0}
    jobs = quality.report_jobs(plan, chosen)
    assert len(jobs) == 2 * (12 + 2 * 3)
    done = quality.perform(jobs, plan, path, tmp_path)
    assert len(invented) == 68
    # A crash in the middle of a line costs that run, and only that.
    path.write_text(path.read_text()[:-30])
    again = quality.perform(jobs, plan, path, tmp_path)
    assert len(invented) == 69
    assert again == done
    assert read_rows(path, "key") == done


def test_table_holds_every_prompt_and_the_medians(quality, invented, tmp_path):
    plan, path = quality.FULL, tmp_path / "full.jsonl"
    done = quality.perform(quality.tuning_jobs(plan), plan, path, tmp_path)
    chosen = quality.choose(plan, done)
    done = quality.perform(quality.report_jobs(plan, chosen), plan, path, tmp_path)
    text = quality.table(plan, chosen, done)
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert len(rows) == 12
    assert all(row.count("|") == 14 for row in rows)
    # Three seeds: the mean and the range; one seed: the value; no front: a dash.
    assert "17.0 (16.0..18.0)" in rows[0]
    assert "(" not in rows[11]
    assert rows[0].rstrip(" |").endswith("-")
    assert "guidance_scale 50 **chosen**" in text
    assert "| **median** | 0.800 | 0.800 | 1.000 |" in text
