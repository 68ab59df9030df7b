"""Means with their standard errors, differences within pairs, shares of the ceiling.

The ceiling of a prompt is what the same representation scores that was fitted to true
renders. A pair is one (prompt, seed), equal in all variants that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from sdsjax.diagnostics.statistics import mean_error, paired_difference
from sdsjax.files.atomic import read_rows

__all__ = [
    "ceiling_scores",
    "covariance_trace",
    "jackknife",
    "mean_error",
    "mean_error_over_captions",
    "paired_difference",
    "share_of_ceiling",
    "share_of_run",
    "squared_mean",
    "wilson_interval",
]


def mean_error_over_captions(values: np.ndarray) -> tuple[float, float]:
    """The mean of values [captions seeds] and its standard error over the captions.

    Seeds of one caption are no independent runs: their mean counts once.
    """
    return mean_error(np.mean(values, axis=1))


def jackknife(whole: float, without: np.ndarray) -> list[float]:
    """Returns [value, error] of a statistic, from its values [S] without one sample.

    Efron & Stein, "The Jackknife Estimate of Variance", 1981.
    """
    count = len(without)
    spread = ((without - without.mean()) ** 2).sum() * (count - 1) / count
    return [float(whole), float(np.sqrt(spread))]


def covariance_trace(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray]:
    """Estimates tr Cov(a, b) of samples [S d]: (value, values without one sample)."""
    count = len(a)
    product = ((a - a.mean(0)) * (b - b.mean(0))).sum(1)
    # without sample i the sum loses count / (count - 1) of its product
    left = (product.sum() - product * count / (count - 1)) / (count - 2)
    return float(product.sum() / (count - 1)), left


def squared_mean(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray]:
    """Estimates |E G|^2 of samples [S d] without bias: (value, values without one).

    a, b: two draws of each sample that share nothing but what varies over the samples,
    or the same array twice.
    """
    gram = a @ b.T
    count, own = len(gram), np.diag(gram)
    off = gram.sum() - own.sum()
    left = off - gram.sum(0) - gram.sum(1) + 2 * own
    return float(off / (count * (count - 1))), left / ((count - 1) * (count - 2))


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


_kept_ceilings = cache(ceiling_scores)


def share_of_run(row: Mapping, ceilings: Path) -> float:
    """The share of its prompt's ceiling that a run reached.

    row: of a run, with "truth" and "prompt"; ceilings: as of `ceiling_scores`, read
    once. Raises KeyError for a prompt whose ceiling is not there.
    """
    return share_of_ceiling(row["truth"], _kept_ceilings(ceilings)[row["prompt"]])
