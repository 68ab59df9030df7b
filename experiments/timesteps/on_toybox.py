"""Schedules of t on toybox-sd: Gaussians scored against the true object; README.md.

640 evaluations of the UNet a run (160 steps of 2 views x 2 calls) with the settings of
configs/base.py but for the estimator and t; learning rates times 3, as in the league
(../league). What a sampler draws in a run is a table [steps views] that is traced, so
that an estimator is compiled once. One JSON line a run in `results/`: what is there is
not run again.

    python experiments/timesteps/run.py --toybox           # small: four minutes
    python experiments/timesteps/run.py --toybox --full    # README.md's table
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from samplers import SAMPLERS

from sdsjax.cli.checks import resolve
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.studies.comparison import (
    Case,
    Comparison,
    Pair,
    Plan,
    comparison_experiment,
)
from sdsjax.studies.report import markdown_table
from sdsjax.studies.runner import Experiment, Run
from sdsjax.studies.statistics import mean_error, paired_difference
from sdsjax.studies.toybox_run import drawn_times, from_table
from sdsjax.training.build import build

HERE = Path(__file__).resolve().parent
CEILINGS = HERE.parent / "toybox_quality" / "results" / "full.jsonl"
PROMPTS = ("a blue house", "a pink teapot", "an orange cat")
SMALL = Plan(PROMPTS[:1], (0, 1), 40)
FULL = Plan(PROMPTS, (0, 1), 160)
SQRT, DEFAULT = "sqrt (HiFA)", "random, window to 500"
WHOLE_RANGE = "random"  # t uniform in [20, 980] from the first step to the last
# besides those of the exact prior what configs/base.py has
ON_TOYBOX = SAMPLERS | {DEFAULT: TIMESTEPS["annealed_window"]()}
ESTIMATED = {
    "sds, s = 7.5": lambda schedule: ESTIMATORS["sds"](schedule, guidance_scale=7.5),
    "ssd, M = 500": lambda schedule: ESTIMATORS["ssd"](schedule, threshold=500),
}


def label(estimator: str, sampler: str) -> str:
    return f"{estimator}; {sampler}"


def cases(plan: Plan) -> list[Case]:
    """Every estimator with every sampler."""

    def one(estimator: str, sampler: str) -> Case:
        return Case(
            label(estimator, sampler),
            estimator,
            lambda schedule, times: ESTIMATED[estimator](schedule),
            lambda seed: drawn_times(ON_TOYBOX[sampler], seed, plan.steps, plan.views),
            from_table,
        )

    return [one(estimator, sampler) for estimator in ESTIMATED for sampler in ON_TOYBOX]


def against() -> dict[str, dict[str, str]]:
    """Every schedule against the default and against HiFA's, estimator by estimator."""
    return {
        f"- ({base})": {
            label(e, sampler): label(e, base)
            for e in ESTIMATED
            for sampler in ON_TOYBOX
        }
        for base in (DEFAULT, SQRT)
    }


def build_run(prompt: str, steps: int, views: int):
    given = {"prompt": prompt, "steps": steps, "batch_size": views}
    return build(resolve("sds:toybox", given))


def compared(plan: Plan) -> Comparison:
    return Comparison(cases(plan), against())


def janus_rates(plan: Plan, rows: Mapping) -> list[str]:
    """The lines of a table: the share of side and back views that show a front.

    StableDreamer says that a noise level that falls lessens it: every schedule against
    t drawn over the whole range, pair by pair.
    """

    def rate(case: Case, pair: Pair) -> float | None:
        row = rows.get(plan.key(case, pair))
        return row and row["truth"]["janus_rate"]  # None: a kind without a front

    found = {
        case.label: {
            pair: value
            for pair in plan.pairs()
            if (value := rate(case, pair)) is not None
        }
        for case in cases(plan)
    }

    def cells(estimator: str, sampler: str) -> list[str]:
        own = found[label(estimator, sampler)]
        mean, error = mean_error(list(own.values()))
        apart = "-"
        if sampler != WHOLE_RANGE:
            base = found[label(estimator, WHOLE_RANGE)]
            difference, its_error, _ = paired_difference(own, base)
            apart = f"{difference:+.2f} +- {its_error:.2f}"
        return [label(estimator, sampler), f"{mean:.2f} +- {error:.2f}", apart]

    names = [(e, s) for e in ESTIMATED for s in ON_TOYBOX if found[label(e, s)]]
    heads = ["case", "Janus rate", f"- ({WHOLE_RANGE})"]
    return markdown_table(heads, [cells(*name) for name in names])


def experiment() -> Experiment:
    shares = comparison_experiment(
        folder=HERE, description=__doc__, ceilings=CEILINGS, small=SMALL, full=FULL,
        compared=compared, build=build_run,
    )  # fmt: skip

    def table(run: Run) -> str:
        return "\n".join([shares.table(run), *janus_rates(run.plan, run.rows)]) + "\n"

    return shares._replace(table=table)
