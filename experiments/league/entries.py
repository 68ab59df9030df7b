"""Who plays in the league on toybox-sd, at what settings, on which prompts.

And a run's name and its score. See quality.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sdsjax.studies.contestants import ALIASES, ENTRIES, TIME, Entry
from sdsjax.studies.runner import Option
from sdsjax.studies.statistics import share_of_run

__all__ = ["ALIASES", "ENTRIES", "TIME", "Entry"]  # whose home is studies/contestants

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


def share(row: dict) -> float:
    """The share of its ceiling that a run reached."""
    return share_of_run(row, CEILINGS)
