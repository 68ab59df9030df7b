"""The league's second season: equal flops on exact and trained priors in 3D.

See README.md. Every estimator is tuned in the same few trials on the prompts of TUNE,
then reported on eight others, with as many steps as the budget pays for at the
operations that a step of it makes. One row a run in `results/league-small.jsonl`.

    python experiments/league_season2/run.py           # small: under an hour
    python experiments/league_season2/run.py --full    # 600 steps of SDS, three seeds
"""

from __future__ import annotations

from collections.abc import Iterator

from flow import flow, sheets
from placing import best, table
from playing import CONFIGS, Stages
from season import (
    COLUMNS,
    FULL,
    HERE,
    OPTIONS,
    SMALL,
    TUNE,
    Job,
    Plan,
    Price,
    job,
    share,
)

from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.contestants import ENTRIES
from sdsjax.studies.runner import Experiment, Run, run


def tuning(plan: Plan, column: str, rows: dict) -> Iterator[Job]:
    """The trials of a column: the same number for every estimator."""
    for name in plan.only:
        for setting in ENTRIES[name].candidates:
            for prompt in TUNE:
                yield job(plan, column, name, setting, prompt, 0, rows)


def reported(plan: Plan, column: str, seed: int, rows: dict) -> Iterator[Job]:
    """The runs of a column and seed, at the chosen settings."""
    tuned_in = COLUMNS[column].tuned_in
    for name in plan.only:
        setting = best(plan, tuned_in, name, rows)
        if setting is None:  # the time was over while it was tuned
            return
        for prompt in plan.reported():
            yield job(plan, column, name, setting, prompt, seed, rows)


def jobs_of(plan: Plan, rows: dict) -> Iterator[tuple[str, Job | Price]]:
    """All counts; tuning and seed 0, column by column; then the other seeds."""
    for price in CONFIGS:
        for name in ENTRIES:
            asked = Price(price, name, plan.views)
            yield asked.key(), asked
    for seed in range(plan.seeds):
        for column in plan.columns:
            for each in tuning(plan, COLUMNS[column].tuned_in, rows):
                yield each.key(), each
            for each in reported(plan, column, seed, rows):
                yield each.key(), each


def worker(run: Run):
    enable_compile_cache()
    stages = Stages(run.plan, run.rows)

    def perform(asked: Job | Price) -> dict:
        row = stages.perform(asked, run.workdir)
        found = f"share {share(row):.3f}" if "truth" in row else f"{row['flops']:.4g}"
        print(f"{asked.key()}: {found}", flush=True)
        return row

    return perform


def figure(run: Run) -> None:
    """Draws the flow of ranks, and a sheet of pictures for each column."""
    flow(run.plan, run.rows, run.file(".png"))
    sheets(run.plan, run.rows, run.workdir, run.file(""))


def experiment() -> Experiment:
    """The season: its plans, its jobs, and what is made of the rows."""
    return Experiment(
        HERE, __doc__ or "", SMALL, FULL, worker=worker, options=OPTIONS,
        stem="league-{size}",
        jobs=lambda run: jobs_of(run.plan, run.rows),
        table=lambda run: table(run.plan, run.rows), figure=figure,
    )  # fmt: skip


def main(argv=None) -> None:
    run(argv, experiment())


if __name__ == "__main__":
    main()
