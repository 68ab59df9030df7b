"""The table of experiments/startup, on runs whose parts are known."""

import json
from itertools import pairwise

import pytest
from experiment_folder import load

STEPS = 60


@pytest.fixture
def startup():
    return load("startup")


def row(scale: float) -> dict:
    """A run of 60 steps of `scale` seconds each, half of it processor time: 20 of them
    before the first step, 10 after the last."""
    spent = {
        "import": 2, "config": 1, "prompt and networks": 3,
        "compile, first 10 steps": 14 + 10, "step": 50, "checkpoint": 1, "preview": 3,
        "finished": 10,
    }  # fmt: skip
    marks = [[name, scale * s, 0.5 * scale * s] for name, s in spent.items()]
    return {
        "marks": [*marks, ["preview", scale, 0.5 * scale]],
        "compilations": 7, "compiled": 1.0, "exports": {"mesh": 2.0 * scale},
        "sha256": "ab" * 32, "truth": {},
    }  # fmt: skip


def test_the_first_steps_are_counted_among_the_steps(startup):
    parts = startup.summary(row(1.0), STEPS)
    assert parts["before the first step"] == (20.0, 10.0)
    assert parts["steps, previews, checkpoints"] == (65.0, 32.5)
    assert parts["after the last step"] == (10.0, 5.0)
    assert startup.share(parts) == pytest.approx((30 / 65, 30 / 65))


def test_the_table_has_medians_of_every_tree(startup, tmp_path, monkeypatch):
    scales = iter([1.0, 0.1, 1.0, 0.1, 9.0, 0.1, 2.0, 0.1, 2.0, 0.1, 3.0, 0.1])
    asked = []

    def perform(tree, steps, cache):
        asked.append((tree.name, steps, str(cache)))
        return row(next(scales))

    monkeypatch.setattr(startup, "perform", perform)
    startup.main(
        [
            *("--steps", "60", "--repeats=3", "--trees", f"old={tmp_path}"),
            *("--out", str(tmp_path)),
        ]
    )
    text = (tmp_path / "small.md").read_text()
    # the old tree's cold runs took 1, 9 and 2 times the unit, the new one's 1, 2 and 3
    assert "| old cold | old warm | now cold | now warm |" in text
    assert "| before the first step | 40.0 / 20.0 | 2.0 / 1.0 | 40.0 / 20.0 |" in text
    assert "| export mesh, wall clock | 4.0 | 0.2 | 4.0 | 0.2 |" in text
    assert "abababababab" in text
    assert {steps for _, steps, _ in asked} == {60}
    # a cold run and the warm one after it share a cache, which is then gone
    assert [a[2] == b[2] for a, b in pairwise(asked)][:3] == [True, False, True]
    rows = json.loads((tmp_path / "small.json").read_text())["trees"]
    assert [len(rows[tree]["cold"]) for tree in ("old", "now")] == [3, 3]
