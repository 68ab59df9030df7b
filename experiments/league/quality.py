"""The league on toybox-sd and toybox-flow: Gaussians, equal calls; see README.md.

A run makes `calls` evaluations of the UNet, a backward pass of VSD's LoRA counting as
two, so that an estimator of b calls a view takes calls / (b batch) steps. Each is tuned
on the prompts of TUNE in a few trials (two settings at the first of `rates`, which
multiply all learning rates, then the others at the better one) and reported at the
best. One row a run in `results/toybox-sd.jsonl` (toybox-flow.jsonl); one compiled step
an estimator serves all prompts and seeds.

    python experiments/league/run.py --full
    python experiments/league/run.py --full --calls 4800 --prompts 6 --seeds 3
    python experiments/league/run.py --full --only-report
    python experiments/league/run.py --flow         # flow matching
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
from entries import (
    CONFIGS,
    ENTRIES,
    FULL,
    HERE,
    OPTIONS,
    TUNE,
    Job,
    Plan,
    candidates,
    share,
)
from standings import best, order, reported, sheet, table

from sdsjax.cli.checks import resolve
from sdsjax.files.atomic import read_rows
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import save_picture
from sdsjax.studies.runner import Experiment, Option, Run
from sdsjax.studies.toybox_run import ToyboxRuns
from sdsjax.training.build import build


class LeagueRuns:
    """The plan's runs, with one compiled step an estimator.

    Or one a setting, where the setting cannot be traced.
    """

    def __init__(self, plan: Plan):
        def build_run(prompt: str, steps: int):
            given = {"prompt": prompt, "steps": steps, "batch_size": plan.batch}
            return build(resolve(CONFIGS[plan.prior], given))

        self.plan, self.runs = plan, ToyboxRuns(build_run)

    def perform(self, job: Job, root: Path) -> dict:
        """Makes one run and returns its row; a strip of views goes to `root`."""
        entry = ENTRIES[job.estimator]

        def make(schedule, value):
            return entry.make(schedule, job.setting if entry.static else value)

        steps = self.plan.steps(entry)
        found = self.runs.run(
            (job.estimator, job.setting if entry.static else None),
            make, jnp.float32(job.setting),
            prompt=job.prompt, seed=job.seed, steps=steps, rate=job.rate,
        )  # fmt: skip
        save_picture(found.strip, job.picture(root))
        return {
            **job._asdict(),
            "steps": steps,
            "finite": found.finite,
            "truth": found.truth,
            "cpu_seconds": found.cpu_seconds,
        }


def tuning(name: str, plan: Plan, done: dict) -> Iterator[Job]:
    """The trials of an estimator, each asked for once those before it are done."""
    entry = ENTRIES[name]
    for setting in candidates(entry, plan.prior):
        for prompt in TUNE:
            yield Job(name, setting, plan.rates[0], prompt, 0, plan.calls)
    setting, _ = best(name, plan, done)
    for rate in plan.rates[1:]:
        for prompt in TUNE:
            yield Job(name, setting, rate, prompt, 0, plan.calls)


def jobs_of(plan: Plan, rows: dict) -> Iterator[tuple[str, Job]]:
    """Each estimator's tuning and report at seed 0, then the other seeds."""
    for name in plan.only:
        for job in tuning(name, plan, rows):
            yield job.key(), job
        for job in reported(name, plan, rows, (0,)):
            yield job.key(), job
    for seed in range(1, plan.seeds):
        for name in plan.only:
            for job in reported(name, plan, rows, (seed,)):
                yield job.key(), job


def worker(run: Run):
    enable_compile_cache()
    runs = LeagueRuns(run.plan)

    def perform(job: Job) -> dict:
        row = runs.perform(job, run.workdir)
        print(f"{job.key()}: share {share(row):.3f}", flush=True)
        return row

    return perform


def report(run: Run) -> str:
    """The standings, "" while nobody is ranked."""
    if not order(run.plan, run.rows):
        return ""
    noise = {}
    if run.plan.prior == "toybox-sd":  # whose noise it is
        noise = read_rows(run.results / "toybox-noise.jsonl", "key")
    return table(run.plan, run.rows, noise)


def experiment(prior: str = "toybox-sd", flag: str = "--full") -> Experiment:
    plan = FULL._replace(prior=prior)
    return Experiment(
        HERE, __doc__, plan, plan, worker=worker, table=report, flag=flag,
        jobs=lambda run: jobs_of(run.plan, run.rows), stem=prior,
        figure=lambda run: sheet(run.plan, run.rows, run.workdir, run.file(".png")),
        options={"prompts": Option("reported prompts"), **OPTIONS},
    )  # fmt: skip
