"""HiFA's ablations: the flicker of pictures that are known, the table, a tiny run."""

import json

import jax
import numpy as np
import pytest
from experiment_folder import load
from jitted import orbit_camera

from sdsjax import cameras
from sdsjax.files.atomic import read_rows
from sdsjax.types import Rendering

hifa = load("hifa")
flicker = load("hifa", "distil").flicker
camera_angles = jax.jit(cameras.camera_angles)


def drawing(level):
    def draw(camera):
        azimuth, _ = camera_angles(camera)
        shape = (hifa.SIZE, hifa.SIZE)
        rgb = np.full((*shape, 3), level(float(azimuth)), np.float32)
        return Rendering(rgb, np.ones(shape), np.ones(shape), rgb)

    return draw


def test_flicker_is_blind_to_what_moves_evenly(monkeypatch):
    monkeypatch.setattr(cameras, "orbit_camera", orbit_camera)
    assert flicker(drawing(lambda a: 0.3)) == 0
    assert flicker(drawing(lambda a: 0.1 + 0.02 * (a - 30))) < 0.01
    # every other frame brighter by .01: second differences of .02
    flips = flicker(drawing(lambda a: 0.3 + 0.01 * (round(4 * (a - 30)) % 2)))
    np.testing.assert_allclose(flips, 20.0, rtol=1e-3)


def test_the_table_compares_the_same_runs(tmp_path):
    plan = hifa.Plan(("a", "b"), (0,), 1)
    rows = [
        ("HiFA", "a", 0.8), ("HiFA", "b", 0.6), ("linear t", "b", 0.7),
        ("no z-variance", "a", 0.0), ("latent only", "a", 0.3),
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    lines = [
        json.dumps(
            {"key": hifa.key_of((v, p, 0), plan), **dict.fromkeys(hifa.FIGURES, x)}
        )
        for v, p, x in rows
    ]
    path.write_text("\n".join(lines) + '\n{"key": "cut')
    found = hifa.collected(plan, read_rows(path, "key"))
    text = hifa.table(plan, found)
    assert "| HiFA | 2 | 0.700 |" in text
    assert "| linear t | 1 | 0.700 (+0.100) |" in text
    assert "| image only | 0 | - |" in text
    # against "no z-variance", whose 0 counts
    assert "| latent only | 1 | 0.300 (+0.300) |" in text
    values, base = np.array([[1.0, 3.0], [4.0, np.nan]]), np.ones((2, 2))
    # differences 1 and 3 by prompt
    assert hifa.cell(values, base, 2) == "2.67 (+2.00 +- 1.00)"
    hifa.picture(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_run_that_is_there_is_not_repeated(tmp_path, monkeypatch):
    plan = hifa.Plan(("a red mug",), (0,), 2)
    monkeypatch.setattr(hifa, "SMALL", plan)
    monkeypatch.setattr(hifa, "VARIANTS", {"HiFA": hifa.VARIANTS["HiFA"]})
    hifa.main(["--out", str(tmp_path), "--runs", str(tmp_path)])
    first = (tmp_path / "small.jsonl").read_text()
    assert 0 <= json.loads(first)["iou"] <= 1
    hifa.main(["--out", str(tmp_path), "--runs", str(tmp_path)])
    assert (tmp_path / "small.jsonl").read_text() == first
