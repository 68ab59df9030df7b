"""Which of several methods are certainly better than which: a bootstrap over prompts.

Scores are [methods prompts], seeds of a prompt averaged before, since they are not
independent. A resample draws n - 1 of n prompts with replacement, the same for all
methods, which gives means the variance that the unbiased estimate says (Rao and Wu,
"Resampling Inference with Complex Survey Data", 1988); draws are fixed. Resampled means
have a normal's tails where a few prompts ask for Student's, so that a pair is called
certain, and a rank's interval drawn, at 99%: of equal methods on 8 prompts .05 of the
pairs are then called certain (a simulation in the tests). Nothing is corrected for the
number of pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 10_000
LEVEL = 0.99


class Ranking(NamedTuple):
    """What a bootstrap says of n methods.

    better [n n]: the share of resamples in which i's mean is above j's, ties half; rank
    [n]: 1 the best; low, high [n]: the interval of the rank.
    """

    better: np.ndarray
    rank: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def certain(self, i: int, j: int) -> bool:
        """Whether one of the two is better in nearly all resamples."""
        share = self.better[i, j]
        return bool(max(share, 1 - share) >= (1 + LEVEL) / 2)

    def certain_pairs(self) -> int:
        """Of the n (n - 1) / 2 pairs, how many are certain."""
        count = len(self.rank)
        return sum(self.certain(i, j) for i in range(count) for j in range(i))


def ranks(means: np.ndarray) -> np.ndarray:
    """Ranks [... n] of means [... n], 1 the highest; equal ones share their mean."""
    return rankdata(-np.asarray(means), axis=-1)


def bootstrap_ranks(scores: np.ndarray, resamples: int = RESAMPLES) -> Ranking:
    """Ranks methods by scores [methods prompts], of which more is better.

    Raises ValueError for fewer than two prompts, or a score that is not finite.
    """
    scores = np.asarray(scores, np.float64)
    prompts = scores.shape[1]
    if prompts < 2 or not np.isfinite(scores).all():
        raise ValueError(
            f"bootstrap_ranks: {prompts} prompts, scores finite: "
            f"{np.isfinite(scores).all()}; give finite scores of at least two prompts"
        )
    drawn = np.random.default_rng(0).integers(0, prompts, (resamples, prompts - 1))
    means = scores[:, drawn].mean(-1)
    above = np.array(
        [(row > means).mean(1) + (row == means).mean(1) / 2 for row in means]
    )
    found = ranks(means.T)
    low, high = np.percentile(
        found,
        (50 * (1 - LEVEL), 50 * (1 + LEVEL)),
        axis=0,
        method="closest_observation",
    )
    return Ranking(above, ranks(scores.mean(1)), low, high)


def groups(ranking: Ranking) -> list[list[int]]:
    """The longest runs of the ranked methods in which no pair is certain, best first.

    A method may be in several; one that is apart from both neighbours is alone.
    """
    order = [int(i) for i in np.argsort(ranking.rank, kind="stable")]
    found: list[list[int]] = []
    last = 0
    for first in range(len(order)):
        end = first + 1
        while end < len(order) and not any(
            ranking.certain(order[end], other) for other in order[first:end]
        ):
            end += 1
        if end > last:  # not inside of the run before
            found.append(order[first:end])
            last = end
    return found
