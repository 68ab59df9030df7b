"""Who plays in the league on the exact prior, at what settings, on which captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.types import Estimator

SCHEDULE = NoiseSchedule.scaled_linear()
TUNE = ("a red mug", "a green chair")
SPREAD = 0.005  # variance around every picture
REPORT = ("a red snowman", "a blue house", "a yellow duck", "an orange cat")


class Entry(NamedTuple):
    """An estimator and its tuning.

    make: setting -> Estimator (the setting may be traced unless `static`); what it is
    called; its two candidates; branches of the prior a step (a backward pass of VSD's
    adapter counts as two).
    """

    make: Callable[..., Estimator]
    setting: str
    candidates: tuple[float, float]
    branches: int
    static: bool = False


def by_power(name: str, **fixed):
    """A maker for an estimator without a scale, tuned by w(t) = sigma^p instead."""
    return lambda p: ESTIMATORS[name](SCHEDULE, weighting=lambda a, s: s**p, **fixed)


def by_scale(name: str, **fixed):
    """A maker for an estimator that is tuned by its guidance scale."""
    return lambda s: ESTIMATORS[name](SCHEDULE, guidance_scale=s, **fixed)


POWER, SCALE = "p of w = sigma^p", "guidance scale"
ENTRIES = {
    "sds": Entry(by_scale("sds"), SCALE, (7.5, 50.0), 2),
    "mode_seeking": Entry(by_power("mode_seeking"), POWER, (0.0, 2.0), 1),
    "mode_seeking_sds": Entry(by_power("mode_seeking_sds"), POWER, (0.0, 2.0), 1),
    "mode_seeking_adaptive": Entry(
        by_power("mode_seeking_adaptive"), POWER, (0.0, 2.0), 1
    ),
    "mode_disengaging": Entry(by_power("mode_disengaging"), POWER, (0.0, 2.0), 2),
    "ssd": Entry(
        lambda m: ESTIMATORS["ssd"](SCHEDULE, threshold=m), "M", (300.0, 700.0), 2, True
    ),
    "csd": Entry(
        by_power("csd", negative=-0.5, negative_end=-0.5), POWER, (0.0, 2.0), 3
    ),
    "nfsd": Entry(by_scale("nfsd"), SCALE, (7.5, 50.0), 3),
    "stein": Entry(by_scale("stein", fit="element"), SCALE, (7.5, 50.0), 2),
    "vsd": Entry(by_scale("vsd", adapter_lr=0.01), SCALE, (7.5, 50.0), 6),
    "denoised_l2": Entry(by_scale("denoised_l2"), SCALE, (7.5, 50.0), 2),
    "sds_plus": Entry(by_scale("sds_plus", steps=4), SCALE, (7.5, 50.0), 8),
    "ism": Entry(by_scale("ism", steps=2), SCALE, (1.0, 7.5), 5),
    "sdi": Entry(by_scale("sdi", steps=3), SCALE, (7.5, 50.0), 8),
}
