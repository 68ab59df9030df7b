"""Means with their standard errors, differences within pairs, shares of the ceiling.

The ceiling of a prompt is what the same representation scores that was fitted to true
renders. A pair is one (prompt, seed), equal in all variants that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sdsjax.diagnostics.statistics import mean_error, paired_difference
from sdsjax.files.atomic import read_rows

__all__ = [
    "ceiling_scores",
    "mean_error",
    "mean_error_over_captions",
    "paired_difference",
    "share_of_ceiling",
    "wilson_interval",
]


def mean_error_over_captions(values: np.ndarray) -> tuple[float, float]:
    """The mean of values [captions seeds] and its standard error over the captions.

    Seeds of one caption are no independent runs: their mean counts once.
    """
    return mean_error(np.mean(values, axis=1))


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95% interval of the share hits / n (Wilson 1927)."""
    z, share = 1.96, hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def ceiling_scores(path: Path) -> dict[str, dict]:
    """The scores of each prompt's ceiling, from rows of experiments/toybox_quality."""
    rows = read_rows(path, "key").values()
    return {r["prompt"]: r["truth"] for r in rows if r["estimator"] == "ceiling"}


def share_of_ceiling(truth: Mapping, ceiling: Mapping) -> float:
    """The share of its ceiling that a run reached: the mean of IoU's and PSNR's."""
    return 0.5 * (truth["iou"] / ceiling["iou"] + truth["psnr"] / ceiling["psnr"])
