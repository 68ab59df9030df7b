"""Every estimator as a league enters it: how it is made, and what is tuned of it.

Shared by the seasons of experiments/league and experiments/league_season2, so that the
same estimator of the same settings plays in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sdsjax.estimators import ESTIMATORS
from sdsjax.types import Estimator


class Entry(NamedTuple):
    """An estimator and its tuning.

    make: (schedule, setting) -> Estimator; what the setting is called; its two
    candidates; evaluations of the network a view; whether the setting cannot be traced.
    """

    make: Callable[..., Estimator]
    setting: str
    candidates: tuple[float, float]
    calls: int
    static: bool = False


def by_scale(name: str, **fixed):
    """A maker for an estimator that is tuned by its guidance scale."""
    return lambda schedule, s: ESTIMATORS[name](schedule, guidance_scale=s, **fixed)


def by_power(name: str, **fixed):
    """A maker for an estimator without a scale, tuned by w(t) = sigma^p instead."""
    return lambda schedule, p: ESTIMATORS[name](
        schedule, weighting=lambda a, s: s**p, **fixed
    )


SCALE, POWER, TIME = "guidance scale", "p of w = sigma^p", "M"
# In this order, so that a league cut short holds the best-known names.
ENTRIES = {
    "sds": Entry(by_scale("sds"), SCALE, (7.5, 20.0), 2),
    "ssd": Entry(
        lambda schedule, m: ESTIMATORS["ssd"](schedule, threshold=m),
        TIME, (500.0, 300.0), 2, static=True,
    ),
    "mode_disengaging": Entry(by_power("mode_disengaging"), POWER, (2.0, 0.0), 2),
    "mode_seeking_sds": Entry(by_power("mode_seeking_sds"), POWER, (2.0, 0.0), 1),
    "ism": Entry(by_scale("ism", steps=2), SCALE, (7.5, 20.0), 5),
    "vsd": Entry(by_scale("vsd", adapter_lr=1e-3), SCALE, (7.5, 20.0), 6),
    "nfsd": Entry(by_scale("nfsd"), SCALE, (7.5, 20.0), 3),
    "stein": Entry(by_scale("stein", fit="scalar"), SCALE, (7.5, 20.0), 2),
    "sds_plus": Entry(by_scale("sds_plus", steps=4), SCALE, (7.5, 20.0), 8),
    "sdi": Entry(by_scale("sdi", steps=3), SCALE, (7.5, 20.0), 8),
    "mode_seeking_adaptive": Entry(
        by_power("mode_seeking_adaptive"), POWER, (2.0, 0.0), 1
    ),
    "mode_seeking": Entry(by_power("mode_seeking"), POWER, (2.0, 0.0), 1),
}  # fmt: skip
# The same direction, sample by sample, and so run once: h, and SDS as an L2.
ALIASES = {"csd": "mode_disengaging", "denoised_l2": "sds"}
