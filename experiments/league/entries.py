"""Who plays in the league on toybox-sd, at what settings, on which prompts.

And a run's name and its score. See quality.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sdsjax.estimators import ESTIMATORS
from sdsjax.studies.runner import Option
from sdsjax.studies.statistics import ceiling_scores, share_of_ceiling
from sdsjax.types import Estimator

HERE = Path(__file__).resolve().parent
CEILINGS = HERE.parent / "toybox_quality" / "results" / "full.jsonl"
TUNE = ("a red mug", "a green chair")
REPORT = (
    "a blue house",
    "a pink teapot",
    "an orange cat",
    "a green car",
    "a purple robot",
    "a red mailbox",
)


class Entry(NamedTuple):
    """An estimator and its tuning.

    make: (schedule, setting) -> Estimator; what the setting is called; its two
    candidates; evaluations of the UNet a view; whether the setting cannot be traced.
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


class Plan(NamedTuple):
    """How long every run is, and how many there are.

    UNet evaluations a run, views a step, reported prompts, seeds; rates: factors of
    every learning rate, the first with each setting, the others with the better one;
    the estimators that play; samples of one gradient for noise.py; the embedded prior.
    """

    calls: int
    batch: int
    prompts: int
    seeds: int
    rates: tuple[float, ...]
    only: tuple[str, ...] = tuple(ENTRIES)
    samples: int = 256
    prior: str = "toybox-sd"

    def steps(self, entry: Entry) -> int:
        return self.calls // (self.batch * entry.calls)


FULL = Plan(calls=4800, batch=2, prompts=len(REPORT), seeds=3, rates=(1.0, 3.0))
# the config that a prior is built by
CONFIGS = {"toybox-sd": "sds:toybox", "toybox-flow": "sds:flow"}


def candidates(entry: Entry, prior: str) -> tuple[float, float]:
    """The settings that are tried; times are those of equal signal to noise.

    For flow matching .7 of a variance-preserving schedule's, as in configs/networks.py.
    """
    if prior != "toybox-flow" or entry.setting != TIME:
        return entry.candidates
    first, second = entry.candidates
    return 0.7 * first, 0.7 * second


OPTIONS = {
    "calls": Option("UNet evaluations a run"),
    "batch": Option("views a step"),
    "rates": Option("factors of every learning rate"),
    "only": Option("some of the estimators", tuple(ENTRIES)),
}


class Job(NamedTuple):
    """One run; rate multiplies every learning rate of configs/base.py."""

    estimator: str
    setting: float
    rate: float
    prompt: str
    seed: int
    calls: int

    def key(self) -> str:
        return (
            f"{self.estimator} {self.setting:g} x{self.rate:g} | {self.prompt} | "
            f"seed {self.seed} | {self.calls} calls"
        )

    def picture(self, root: Path) -> Path:
        words = self.key().replace(" | ", "-").replace(" ", "-")
        return root / f"{words}.png"


@cache
def ceilings() -> dict[str, dict]:
    """The scores of the same Gaussians fitted to true renders, by prompt."""
    return ceiling_scores(CEILINGS)


def share(row: dict) -> float:
    """The share of its ceiling that a run reached."""
    return share_of_ceiling(row["truth"], ceilings()[row["prompt"]])
