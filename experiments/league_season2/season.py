"""Who plays where in the second season: columns, prompts, plans, and what a run is.

A column is a prior with a price list. Runs in it spend one budget, what `sds_steps`
steps of SDS cost, so that an estimator makes budget / flops of its own step updates. A
column with a price list that is not its own tells what the price does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sdsjax.studies.contestants import ENTRIES
from sdsjax.studies.runner import Option
from sdsjax.studies.statistics import share_of_run

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
    "an orange rocket",
    "a cyan fish",
)


class Column(NamedTuple):
    """A column of the league.

    prior: what is distilled; price: whose flops are charged, "exact" or "toybox-mv";
    tuned_in: the column whose tuning is used; title: in tables and figures.
    """

    prior: str
    price: str
    tuned_in: str
    title: str


# All exact columns are tuned at the middle of the dial: from one to the next nothing
# changes but the views' ambiguity, or the price.
COLUMNS = {
    "exact-0": Column("exact-0", "exact", "exact-20", "exact, spread 0"),
    "toybox-mv": Column("toybox-mv", "toybox-mv", "toybox-mv", "toybox-mv"),
    "exact-20": Column("exact-20", "exact", "exact-20", "exact, spread 20"),
    "exact-45": Column("exact-45", "exact", "exact-20", "exact, spread 45"),
    "exact-45-priced": Column(
        "exact-45", "toybox-mv", "exact-20", "exact, spread 45, at toybox-mv's price"
    ),
}
# from the least ambiguous to the trained prior, one thing changing at a time
ALONG = ("exact-0", "exact-20", "exact-45", "exact-45-priced", "toybox-mv")
SPREADS = {"exact-0": 0.0, "exact-20": 20.0, "exact-45": 45.0}  # degrees


class Plan(NamedTuple):
    """How long every run is, and how many there are.

    The budget as steps of SDS; views a step; reported prompts, seeds; the factor of
    every learning rate; the columns and the estimators that play.
    """

    sds_steps: int
    views: int
    prompts: int
    seeds: int
    rate: float
    columns: tuple[str, ...] = tuple(COLUMNS)
    only: tuple[str, ...] = tuple(ENTRIES)

    def reported(self) -> tuple[str, ...]:
        """The prompts that are reported."""
        return REPORT[: self.prompts]


SMALL = Plan(sds_steps=50, views=4, prompts=8, seeds=1, rate=8.0)
FULL = Plan(sds_steps=600, views=4, prompts=8, seeds=3, rate=1.0)
OPTIONS = {
    "sds_steps": Option("the budget, in steps of SDS"),
    "views": Option("views a step"),
    "prompts": Option("reported prompts"),
    "rate": Option("a factor of every learning rate"),
    "columns": Option("some of the columns", tuple(COLUMNS)),
    "only": Option("some of the estimators", tuple(ENTRIES)),
}


class Job(NamedTuple):
    """One run, of so many steps; rate multiplies every rate of configs/base.py."""

    prior: str
    estimator: str
    setting: float
    rate: float
    prompt: str
    seed: int
    steps: int
    views: int

    def key(self) -> str:
        return (
            f"{self.prior} | {self.estimator} {self.setting:g} x{self.rate:g} | "
            f"{self.prompt} | seed {self.seed} | {self.steps} steps of {self.views}"
        )

    def picture(self, root: Path) -> Path:
        """Where its strip of views lies."""
        words = self.key().replace(" | ", "-").replace(" ", "-")
        return root / f"{words}.png"


class Price(NamedTuple):
    """The count of a step's operations of one estimator on one kind of prior."""

    price: str
    estimator: str
    views: int

    def key(self) -> str:
        return f"flops | {self.price} | {self.estimator} | {self.views} views"


def steps_of(plan: Plan, column: str, name: str, rows: Mapping[str, dict]) -> int:
    """The updates that the budget pays for, rounded; KeyError before the count."""
    price = COLUMNS[column].price
    own, sds = (
        rows[Price(price, one, plan.views).key()]["flops"] for one in (name, "sds")
    )
    return max(1, round(plan.sds_steps * sds / own))


def job(plan: Plan, column: str, name: str, setting: float, prompt: str, seed: int,
        rows: Mapping[str, dict]) -> Job:  # fmt: skip
    """The run of an estimator in a column."""
    steps = steps_of(plan, column, name, rows)
    prior = COLUMNS[column].prior
    return Job(prior, name, setting, plan.rate, prompt, seed, steps, plan.views)


def share(row: Mapping) -> float:
    """The share of its ceiling that a run reached."""
    return share_of_run(row, CEILINGS)
