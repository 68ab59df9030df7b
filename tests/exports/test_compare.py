"""compare.html: a column a run, the best in bold, nothing from outside."""

import json
import re

import numpy as np
import pytest

from sdsjax.exports import compare
from sdsjax.exports.video import write_video


@pytest.fixture
def runs(tmp_path):
    figures = {
        "one": {"iou": 0.9, "chamfer": 0.05, "janus_rate": None},
        "two<b>": {"iou": 0.7, "chamfer": 0.02},
    }
    for name, truth in figures.items():
        folder = tmp_path / name
        folder.mkdir()
        metrics = {"prompt": "a <i>red</i> ball", "truth": truth, "seconds": 12}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    images = np.zeros((2, 16, 16, 3), np.uint8)
    write_video(tmp_path / "one" / "turntable.mp4", images)
    return [tmp_path / name for name in figures]


def test_page_holds_every_run_escaped_and_offline(runs, tmp_path):
    html = compare.write_compare(tmp_path / "compare.html", runs).read_text()
    assert html.count("<video") == 1
    assert "two&lt;b&gt;: nothing to show" in html
    assert "<i>red" not in html
    assert not re.search(r"https?://", html)


def test_best_is_bold_by_its_direction(runs):
    html = compare.scores_table([compare.read_run(run) for run in runs])
    assert "<strong>0.9</strong>" in html
    assert "<strong>0.02</strong>" in html
    assert "<strong>0.7</strong>" not in html
    assert "Janus" not in html
    assert html.count("<strong>12 s</strong>") == 2


def test_a_directory_without_a_run_is_one_line(tmp_path):
    (tmp_path / "metrics.json").write_text("[1, 2")
    with pytest.raises(compare.CompareError, match="no readable metrics"):
        compare.read_run(tmp_path)
