"""The notebooks run from the first cell to the last, on a CPU and in small."""

import re
from pathlib import Path

import pytest

import sdsjax

FOLDER = Path(__file__).parents[2] / "experiments" / "notebooks"
ROOT = str(Path(sdsjax.__file__).parent)
# what makes a run of minutes one of seconds: text of a cell, and what takes its place
SMALLER = {
    "choosing_an_estimator": ("resamples = 4000", "resamples = 200"),
    "quickstart": ('"steps": 400', '"steps": 3'),
    "real_weights": ('"steps": 60', '"steps": 3'),
    "variance": ("samples = 64 ", "samples = 16 "),
}


def test_every_notebook_is_known():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALLER)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs(name, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    text = (FOLDER / f"{name}.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    # the install cell would fetch a released package where this one is not found
    (install,) = (cell for cell in notebook.cells if "pip" in cell.source)
    install.source = f"import sdsjax; assert sdsjax.__file__.startswith({ROOT!r})"
    before, after = SMALLER[name]
    changed = 0
    for cell in notebook.cells:
        assert not cell.get("outputs"), "committed without outputs"
        changed += before in cell.source
        cell.source = cell.source.replace(before, after)
    assert changed == 1
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=500, resources=where).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    rich = [out.data for out in shown if "data" in out]
    pages = [data.get("text/html", "") for data in rich]
    printed = "".join(out.get("text", "") for out in shown)
    if name == "quickstart":
        assert any("<iframe srcdoc=" in page for page in pages)
    if name == "real_weights":
        assert "memory: about" in printed
        assert "splats.ply" in printed
        assert sum("image/png" in data for data in rich) == 1
    if name in ("quickstart", "real_weights"):
        assert any("<video" in page for page in pages)
    if name == "variance":
        assert sum("image/png" in data for data in rich) == 2
    if name == "choosing_an_estimator":
        assert sum("image/png" in data for data in rich) == 1
        # the league's own table says the same of its leader
        standing = re.search(
            r"^\| (\w+) \|.*? 0(\.\d+) \+- 0(\.\d+) ",
            (FOLDER.parent / "league" / "results" / "toybox-sd.md").read_text(),
            re.MULTILINE,
        )
        leader, share, error = standing.groups()
        assert re.search(rf"^{leader} +0{share} ± 0{error}", printed, re.MULTILINE)
        assert re.search(rf"Not told apart from the best: {leader}, \w", printed)
        # and the second season's of sds, in the four columns at their own price
        season = FOLDER.parent / "league_season2" / "results" / "league-small.md"
        shares = re.findall(r"^\| sds \|.*? (0\.\d+) \+- (0\.\d+) ", season.read_text(),
                            re.MULTILINE)  # fmt: skip
        own = [shares[i] for i in (0, 1, 2, 4)]
        said = "".join(f" +{share} ± {error}" for share, error in own)
        assert re.search(rf"^sds{said}", printed, re.MULTILINE)
