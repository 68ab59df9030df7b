"""What the standings say of variance and quality, and of two estimators on equal runs.

SteinDreamer (sec. 3, fig. 1) holds that the estimator of less variance distils better:
over the league's estimators that is a rank correlation of noise and score below 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from sdsjax.studies.statistics import mean_error

RESAMPLES = 2000


def rank_correlation(
    noise: Sequence[float], quality: Sequence[float]
) -> tuple[float, float, float]:
    """Spearman's correlation of two figures [estimators], and its 95% interval.

    The interval is a bootstrap over the estimators, with fixed draws: it is wide for a
    dozen of them. Resamples in which a figure does not vary are left out.
    """
    pairs = np.array([noise, quality]).T
    drawn = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    varied = [pairs[d] for d in drawn if (np.ptp(pairs[d], axis=0) > 0).all()]
    low, high = np.percentile([spearmanr(*p.T).statistic for p in varied], (2.5, 97.5))
    return float(spearmanr(*pairs.T).statistic), float(low), float(high)


def rank_line(noise: Sequence[float], quality: Sequence[float], score: str) -> str:
    """A sentence of the report: the rank correlation of noise with a score."""
    value, low, high = rank_correlation(noise, quality)
    return (
        f"Rank correlation of tr Cov / squared mean with {score} over "
        f"{len(noise)} estimators: {value:+.2f} (95%: {low:+.2f} to {high:+.2f}, "
        "bootstrap over estimators); below 0 would mean that less noise is better."
    )


def paired(own: Mapping[tuple, float], base: Mapping[tuple, float]) -> str:
    """The mean of own - base over equal (prompt, seed), its error over the prompts.

    Seeds of one prompt are no independent runs: their mean counts once.
    """
    apart: dict[str, list[float]] = {}
    for prompt, seed in own:
        if (prompt, seed) in base:
            difference = own[prompt, seed] - base[prompt, seed]
            apart.setdefault(prompt, []).append(difference)
    mean, error = mean_error([np.mean(each) for each in apart.values()])
    return f"{mean:+.3f} +- {error:.3f}"
