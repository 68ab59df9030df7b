"""The quality experiment's bookkeeping: resuming, choosing, the table."""

import pytest
from experiment_folder import load

from sdsjax.files.atomic import read_rows
from sdsjax.toybox.world.captions import parse_caption


@pytest.fixture(scope="module")
def quality():
    return load("toybox_quality")


def run_full(quality, folder):
    """The rows of the full plan, and whatever report follows."""
    quality.main(["--full", "--out", str(folder), "--runs", str(folder)])
    return read_rows(folder / "full.jsonl", "key")


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
    done = run_full(quality, tmp_path)
    # 32 trials, and both estimators on 12 prompts, three of them with three seeds
    assert len(invented) == 32 + 2 * (12 + 2 * 3)
    assert len(done) == len(invented) + 16  # ceilings
    assert quality.choose(plan, done) == {"sds": 50.0, "ssd": 300.0}
    tuned = {quality.Job(n, s, p, 0).key() for n in ("sds", "ssd")
             for s in plan.settings[n] for p in plan.tune}  # fmt: skip
    assert set(invented[:32]) == tuned
    # A crash in the middle of a line costs that run, and only that.
    path.write_text(path.read_text()[:-30])
    assert run_full(quality, tmp_path) == done
    assert len(invented) == 69
    # A report of half the rows is one line.
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[: len(rows) // 2]))
    with pytest.raises(SystemExit, match="runs are missing, first: "):
        quality.main(["--full", "--only-report", "--out", str(tmp_path)])


def test_table_holds_every_prompt_and_the_medians(quality, invented, tmp_path):
    run_full(quality, tmp_path)
    text = (tmp_path / "full.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert len(rows) == 12
    assert all(row.count("|") == 14 for row in rows)
    # Three seeds: the mean and the range; one seed: the value; no front: a dash.
    assert "17.0 (16.0..18.0)" in rows[0]
    assert "(" not in rows[11]
    assert rows[0].rstrip(" |").endswith("-")
    assert "guidance_scale 50 **chosen**" in text
    assert "| **median** | 0.800 | 0.800 | 1.000 |" in text


@pytest.fixture
def cameras(quality, monkeypatch):
    """Runs cost nothing: SSD is best at 300, SDS at 3, single views lose .1 of IoU."""
    calls = []

    def worker(run):
        def perform(job):
            calls.append(job.key())
            best = {"ssd": 300.0, "sds": 3.0}[job.case[:3]]
            loss = 0.1 * ("single" in job.case) + abs(job.setting - best) / 1000
            scores = {"iou": 0.9 - loss, "psnr": 19.0, "ssim": 0.9, "chamfer": 0.1}
            return {**job._asdict(), "truth": {**scores, "janus_rate": None}}

        return perform

    monkeypatch.setattr(quality.multiview, "worker", worker)
    return calls


def test_cases_on_the_multiview_prior_are_tuned_apart(
    quality, cameras, tmp_path, monkeypatch
):
    out = ["--multiview", "--full", "--out", str(tmp_path), "--runs", str(tmp_path)]
    quality.main(out)
    # four prompts for each of 9 settings, then twelve for each of four cases
    assert len(cameras) == 4 * 9 + 4 * 12
    assert len(set(cameras)) == len(cameras)
    table = (tmp_path / "full-multiview.md").read_text()
    assert "ssd, groups, threshold 300 | 0.900 |" in table
    assert "sds, single views, guidance_scale 3 | 0.800 |" in table
    assert "ssd, groups - ssd, single views | iou | +0." in table
    # other weights than those that are shipped: measured from the first prompt on
    monkeypatch.setattr(quality.multiview, "embedded", lambda: "another")
    quality.main([*out, "--minutes", "0"])
    assert len(cameras) == 4 * 9 + 4 * 12
    quality.main(out)
    assert len(cameras) == 2 * (4 * 9 + 4 * 12)


def test_density_control_has_a_row_a_config_and_resumes(quality, tmp_path, monkeypatch):
    calls = []

    def worker(run):
        def perform(job):
            calls.append(job.key())
            scores = {"iou": 0.9, "psnr": 18.0, "ssim": 0.9, "chamfer": 0.1}
            count = 7 + (job.prompt == "a blue house")
            truth = {**scores, "janus_rate": None}
            return {**job._asdict(), "gaussians": count, "truth": truth}

        return perform

    monkeypatch.setattr(quality.density, "worker", worker)
    asked = ["--density", "--full", "--out", str(tmp_path), "--runs", str(tmp_path)]
    quality.main(asked)
    quality.main(asked)
    assert len(calls) == len(set(calls)) == 5 * 2
    table = (tmp_path / "full-density.md").read_text().splitlines()[2:]
    assert [row.split(" | ")[0] for row in table] == [
        f"| {name}" for name in ("sds:mv", "dreamgaussian:mv", "gsgen:mv",
                                 "stabledreamer:mv", "stabledreamer:mcmc")
    ]  # fmt: skip
    assert all(" | 7, 8 | 0.900, 0.900 | 18.0, 18.0 | " in row for row in table)
    assert all(row.endswith("| -, - |") for row in table)


def test_a_cloud_s_rows_are_counted_by_its_header(quality, tmp_path):
    (tmp_path / "a.ply").write_bytes(b"ply\nelement vertex 12\nend_header\n\xff")
    assert quality.density.rows_of(tmp_path / "a.ply") == 12
    (tmp_path / "b.ply").write_bytes(b"ply\nend_header\n")
    with pytest.raises(ValueError, match="has no vertices"):
        quality.density.rows_of(tmp_path / "b.ply")
