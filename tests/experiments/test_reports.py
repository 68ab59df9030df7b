"""Every committed table is what its committed rows say, byte for byte.

Figures that are drawn from rows alone are drawn anew as well; where this matplotlib is
the one that drew them, they too are equal byte for byte.
"""

import shutil

import matplotlib
import pytest
from experiment_folder import FOLDER, load
from PIL import Image

from sdsjax.studies.runner import run

LEAGUE = ["--calls", "640", "--prompts", "3", "--seeds", "2", "--rates", "3"]
# experiment, arguments, stem of the files, whether the figure is compared too
REPORTS = [
    ("bench_nerf", ["--full"], "full", False),
    ("bench_networks", ["--full"], "full", False),
    ("bench_rasterize", ["--full"], "full", False),
    ("diagnostics_cost", ["--full"], "full", False),
    ("hifa", ["--full"], "full", True),
    ("league", [], "exact", True),
    ("league", ["--full", *LEAGUE], "toybox-sd", False),
    ("league", ["--flow", *LEAGUE], "toybox-flow", False),
    ("league_season2", ["--seeds", "3"], "league-small", True),
    ("noise_samples", ["--full"], "full", False),
    ("precision", ["--full"], "full", False),
    ("prior_error", ["--full"], "full", False),
    ("prompts_throughput", ["--full"], "full", False),
    ("recursive_gradient", ["--full"], "full", False),
    ("recursive_gradient", ["--assets", "--full"], "full-assets", False),
    ("sample_consistency", ["--full"], "full", False),
    ("ssd_ablation", ["--toybox", "--full"], "full-toybox", False),
    ("ssd_fig7", ["--full"], "full", True),
    ("ssd_norms", ["--toybox", "--full"], "full-toybox", False),
    ("startup", ["--full"], "full", False),
    ("stein_variance", ["--toybox", "--full"], "full-toybox", True),
    ("timesteps", ["--toybox", "--full"], "full-toybox", False),
    ("toybox_quality", ["--full"], "full", False),
    ("toybox_quality", ["--multiview", "--full"], "full-multiview", False),
    ("toybox_quality", ["--density", "--full"], "full-density", False),
    ("view_variance", ["--full"], "full", False),
]


def test_every_experiment_with_rows_is_here():
    # toybox-noise has no table of its own, density_control was made by hand
    other = {("league", "toybox-noise"), ("toybox_quality", "density_control")}
    other |= {("stein_variance", "full-toybox-hybrid")}  # one row, three lines of it
    there = {
        (path.parents[1].name, path.stem)
        for path in FOLDER.glob("*/results/*.json*")
        if not path.stem.startswith("small")
    }
    assert there - other == {(name, stem) for name, _, stem, _ in REPORTS}


def remade(name, arguments, folder, monkeypatch=None):
    """The folder of a report made anew of the committed rows, without its figure where
    a monkeypatch is given."""
    module = load(name)
    if monkeypatch is not None:

        def without_figure(argv, *experiments):
            run(argv, *(one._replace(figure=None) for one in experiments))

        monkeypatch.setattr(module, "run", without_figure)
    for rows in (FOLDER / name / "results").glob("*.json*"):
        shutil.copy(rows, folder)
    out = ["--out", str(folder), "--runs", str(folder / "runs")]
    module.main([*arguments, "--only-report", *out])
    return folder


def named(report):
    return f"{report[0]}-{report[2]}"


@pytest.mark.parametrize("report", REPORTS, ids=named)
def test_a_table_is_made_of_the_rows(report, tmp_path, monkeypatch):
    name, arguments, stem, _ = report
    table = f"{stem}.md"
    new = remade(name, arguments, tmp_path, monkeypatch) / table
    assert new.read_bytes() == (FOLDER / name / "results" / table).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("report", [r for r in REPORTS if r[3]], ids=named)
def test_a_figure_is_made_of_the_rows(report, tmp_path):
    name, arguments, stem, _ = report
    picture = f"{stem}.png"
    own, kept = remade(name, arguments, tmp_path) / picture, FOLDER / name / "results"
    kept /= picture
    with Image.open(own) as new, Image.open(kept) as old:
        assert new.size == old.size
        drawn_by = old.text["Software"]
        assert new.text["Software"].startswith("Matplotlib")
    if f"version{matplotlib.__version__}," in drawn_by:
        assert own.read_bytes() == kept.read_bytes()
