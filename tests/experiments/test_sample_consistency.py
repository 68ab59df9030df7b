"""The sets of the consistency experiment: cut out rightly, put in the right row."""

from functools import cache

import numpy as np
import pytest
from experiment_folder import load

from sdsjax.toybox.scoring.score import true_views
from sdsjax.toybox.world.captions import parse_caption


@pytest.fixture(scope="module")
def consistency():
    return load("sample_consistency")


def test_true_sets_are_cut_out_of_their_grey(consistency, monkeypatch):
    """Two of the nine colours are near grey: kinds of others are asked for."""
    drawn = cache(lambda spec, orbits, size: true_views(spec, orbits, size=size))

    def drawn_once(spec, orbits, *, size):
        return drawn(spec, tuple(orbits), size)

    monkeypatch.setattr(consistency, "true_views", drawn_once)
    orbits = [(a, 15.0, 3.1) for a in (0.0, 90.0, 180.0, -90.0)]
    for prompt in ("a red mug", "a blue house"):
        truth = drawn_once(parse_caption(prompt)[0], orbits, size=48)
        pictures = consistency.true_set(prompt, 48)
        assert pictures.shape == (4, 48, 48, 3)
        np.testing.assert_allclose(pictures[:, 0, 0], 0.5, atol=1e-6)
        alpha = consistency.cut_out(pictures)[..., 3] > 0.5
        true = truth.opacity > 0.5
        assert (alpha & true).sum() / (alpha | true).sum() > 0.97


def test_means_and_the_difference_caption_by_caption(consistency, tmp_path):
    plan = consistency.FULL
    rows = {}
    for source, iou in zip((consistency.TRUTH, *consistency.SOURCES), (4, 3, 1, 0)):
        for index, prompt in enumerate(plan.prompts):
            job = consistency.Job(source, prompt, 0)
            scores = {"iou": iou + index, "psnr": 20.0, "chamfer": 0.1}
            rows[job.key()] = {**job._asdict(), "own": 25.0, "truth": scores}
    run = consistency.Run(plan, rows, tmp_path, "full", tmp_path)
    lines = consistency.table(run).splitlines()
    # 0 .. 7: mean 3.5, standard deviation 2.449, over the root of 8
    assert lines[2].startswith("| true renders | 25.0 +- 0.0 | 7.500 +- 0.866 |")
    # the captions' spread is in both, and not in their difference
    assert lines[-1].startswith(
        "| toybox-mv, groups of 4 less single views | +0.0 +- 0.0 | +2.000 +- 0.000 |"
    )
    # a source without all its rows is left out
    del rows[consistency.Job("toybox-sd, view words", plan.prompts[3], 0).key()]
    assert "toybox-sd" not in consistency.table(run)
