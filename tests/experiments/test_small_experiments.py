"""Every other experiment at a tiny size: it runs, and its table has every row."""

import numpy as np
import pytest
from experiment_folder import load, modules, run_small

from sdsjax.studies.runner import run

pytestmark = pytest.mark.slow


def test_ssd_norms(tmp_path, monkeypatch):
    norms = load("ssd_norms")
    monkeypatch.setattr(norms, "SMALL", norms.Plan(96, (200, 900), 4, 16))
    monkeypatch.setattr(norms, "FIELD_TIMES", (200,))
    monkeypatch.setattr(norms, "EXACT", ("spread .02",))
    text = run_small(norms, tmp_path)
    assert "**spread .02**: d = 48, 96 noises" in text
    rows = [line for line in text.splitlines() if line.startswith(("| 200", "| 900"))]
    assert len(rows) == 2
    assert all(row.count("+-") == len(norms.COLUMNS) for row in rows)


def test_ssd_ablation(tmp_path, monkeypatch):
    ablation = load("ssd_ablation")
    monkeypatch.setattr(ablation, "SMALL", ablation.Plan(4, 2, 8, 0.05, 2, (0, 1000)))
    monkeypatch.setattr(ablation, "SAMPLERS", {"uniform": ablation.SAMPLERS["uniform"]})
    text = run_small(ablation, tmp_path)
    for variant in ablation.VARIANTS:
        assert f"| uniform, {variant}, 1 |" in text


def test_timesteps(tmp_path, monkeypatch):
    times = load("timesteps")
    plan = times.Plan(4, 2, 8, (0.05,), 2, ("sds, s = 7.5",))
    monkeypatch.setattr(times, "SMALL", plan)
    tables = times.time_tables(100, 2)
    assert tables.shape == (5, 2, 100)
    sqrt, _, _, random, _ = tables[:, 0]
    assert (np.diff(sqrt) <= 0).all()
    assert (np.diff(random) > 0).any()
    text = run_small(times, tmp_path)
    assert all(f"| {name} |" in text for name in times.SAMPLERS)


def test_stein_variance(tmp_path, monkeypatch):
    stein = load("stein_variance")
    monkeypatch.setattr(stein, "SMALL", stein.Plan(4, 2, 8, 0.03, 1, 64, 0.01))
    monkeypatch.setattr(stein, "LAGS", (0.0,))
    monkeypatch.setattr(stein, "VARIANCES", (0.0, 0.2))
    text = run_small(stein, tmp_path)
    assert "| vsd, converged | 0 +- 0 (0.00%)" in text  # it is SDS, sample by sample
    assert "| 0 | 0.2 |" in text


def test_league(tmp_path):
    with modules("league", ("exact", "exact_entries", "exact_report")) as league:
        exact, names = league["exact"], ("sds", "ssd")
        plan = exact.Plan(4, 2, 16, (0.01, 0.03), 2, 64, names)
        small = exact.experiment()._replace(small=plan)
        run(["--out", str(tmp_path)], small)
    assert (tmp_path / "exact.png").stat().st_size > 5000
    text = (tmp_path / "exact.md").read_text()
    assert all(f"| {name} |" in text for name in names)


def test_the_league_knows_every_estimator():
    from sdsjax.estimators import ESTIMATORS

    league = load("league")
    entries = league.exact
    assert set(entries.ENTRIES) == set(ESTIMATORS) - {"dds", "pds"}  # they edit
    assert not set(entries.TUNE) & set(entries.REPORT)
    with pytest.raises(SystemExit):
        league.main(["--only", "nobody"])
