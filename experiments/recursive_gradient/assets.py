"""Whole runs with and without a carried gradient, at equal cost; see README.md.

`sds` in the last phase of its config, `gradients` evaluated in all: a run that carries
its gradient takes half as many steps. Each way's factor of the learning rates is the
best of `rates` on TUNE, seed 0; reported are REPORT's prompts. Score: the share of the
ceiling (../toybox_quality), on 16 held-out views.

    python experiments/recursive_gradient/run.py --assets --full
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sdsjax.cli.checks import resolve
from sdsjax.estimators import ESTIMATORS
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.report import markdown_table
from sdsjax.studies.run_states import SDS_ON
from sdsjax.studies.runner import Experiment, Option, Run
from sdsjax.studies.statistics import mean_error, share_of_run
from sdsjax.studies.toybox_run import ToyboxRuns
from sdsjax.training.build import build

HERE = Path(__file__).resolve().parent
CEILINGS = HERE.parent / "toybox_quality" / "results" / "full.jsonl"
VIEWS = {"exact": 2, "toybox-sd": 2, "toybox-mv": 4}  # a step
TUNE = ("a red mug", "a green chair")
REPORT = ("a blue house", "a pink teapot", "an orange cat", "a green car")


class Way(NamedTuple):
    """A way to make updates: is the gradient carried, and Adam's b1."""

    recursive: bool
    b1: float


WAYS = {
    "plain, b1 .9": Way(False, 0.9),
    "recursive, b1 .9": Way(True, 0.9),
    "recursive, b1 0": Way(True, 0.0),
}


class Plan(NamedTuple):
    """Priors, ways, gradients a run, reported prompts, factors of the rates."""

    priors: tuple[str, ...]
    ways: tuple[str, ...]
    gradients: int
    prompts: int
    rates: tuple[float, ...]


SMALL = Plan(("exact",), tuple(WAYS), 120, 1, (1.0,))
FULL = Plan(tuple(SDS_ON), tuple(WAYS), 240, 4, (3.0, 10.0))


class Job(NamedTuple):
    """One run."""

    prior: str
    way: str
    rate: float
    prompt: str
    gradients: int

    def key(self) -> str:
        return (
            f"{self.prior} | {self.way} x{self.rate:g} | {self.prompt} | "
            f"{self.gradients} gradients"
        )


def share(row: dict) -> float:
    """The share of its ceiling that a run reached."""
    return share_of_run(row, CEILINGS)


def trials(plan: Plan, prior: str, way: str, rows: dict) -> dict[float, float]:
    """The mean share over TUNE by rate, of those that are done."""
    found = {}
    for rate in plan.rates:
        keys = [Job(prior, way, rate, p, plan.gradients).key() for p in TUNE]
        if all(key in rows for key in keys):
            found[rate] = float(np.mean([share(rows[key]) for key in keys]))
    return found


def reported(plan: Plan, prior: str, way: str, rows: dict) -> list[Job]:
    """The jobs at the best rate, [] before every rate has been tried."""
    found = trials(plan, prior, way, rows)
    if len(found) < len(plan.rates):
        return []
    rate = max(found, key=lambda one: found[one])
    return [Job(prior, way, rate, p, plan.gradients) for p in REPORT[: plan.prompts]]


def jobs(run: Run) -> Iterator[tuple[str, Job]]:
    """A prior at a time: each way's trials, then its report."""
    plan = run.plan
    for prior in plan.priors:
        for way in plan.ways:
            for rate in plan.rates:
                for prompt in TUNE:
                    job = Job(prior, way, rate, prompt, plan.gradients)
                    yield job.key(), job
            for job in reported(plan, prior, way, run.rows):
                yield job.key(), job


def worker(run: Run):
    enable_compile_cache()
    kept: dict[tuple, tuple[ToyboxRuns, float]] = {}

    def runs(job: Job) -> tuple[ToyboxRuns, float]:
        # the exact prior knows its prompt by more than its parameters
        where = job.prior, job.way, job.prompt if job.prior == "exact" else ""
        if where not in kept:
            way, name = WAYS[job.way], SDS_ON[job.prior]
            given = {
                "batch_size": VIEWS[job.prior],
                "optimizer.recursive": way.recursive,
                "optimizer.b1": way.b1,
            }

            def made(prompt: str, steps: int):
                return build(resolve(name, {"prompt": prompt, "steps": steps, **given}))

            scale = resolve(name, {"prompt": job.prompt}).estimator.guidance_scale
            kept[where] = ToyboxRuns(made), scale
        return kept[where]

    def perform(job: Job) -> dict:
        made, scale = runs(job)
        steps = job.gradients // (2 if WAYS[job.way].recursive else 1)
        found = made.run(
            "sds", lambda schedule, s: ESTIMATORS["sds"](schedule, guidance_scale=s),
            jnp.float32(scale), prompt=job.prompt, seed=0, steps=steps, rate=job.rate,
        )  # fmt: skip
        row = {**job._asdict(), "steps": steps, "finite": found.finite}
        row |= {"truth": found.truth, "cpu_seconds": found.cpu_seconds}
        print(f"{job.key()}: share {share(row):.3f}", flush=True)
        return row

    return perform


def table(run: Run) -> str:
    """Markdown: a row a prior and way; the difference is paired by prompt."""
    heads = [
        "prior", "updates", "rates", "steps", "share of the ceiling", "less plain",
        "IoU", "PSNR, dB",
    ]  # fmt: skip
    lines, rows = [], run.rows
    for prior in run.plan.priors:
        base: dict[str, float] = {}
        for way in run.plan.ways:
            found = [
                rows[job.key()]
                for job in reported(run.plan, prior, way, rows)
                if job.key() in rows
            ]
            if not found:
                continue
            shares = {row["prompt"]: share(row) for row in found}
            base = base or shares
            apart = [shares[p] - base[p] for p in shares if p in base]
            value, error = mean_error(list(shares.values()))
            less, less_error = mean_error(apart)
            lines.append([
                prior, way, f"x{found[0]['rate']:g}", f"{found[0]['steps']}",
                f"{value:.3f} +- {error:.3f}",
                "" if shares is base else f"{less:+.3f} +- {less_error:.3f}",
                f"{np.mean([r['truth']['iou'] for r in found]):.3f}",
                f"{np.mean([r['truth']['psnr'] for r in found]):.1f}",
            ])  # fmt: skip
    return "\n".join([*markdown_table(heads, lines), ""]) if lines else ""


def experiment() -> Experiment:
    return Experiment(
        HERE, __doc__, SMALL, FULL, jobs=jobs, worker=worker, table=table,
        flag="--assets", stem="{size}-assets",
        options={
            "priors": Option("so named", tuple(SDS_ON)),
            "gradients": Option("a run"),
            "prompts": Option("reported prompts"),
            "rates": Option("factors of every learning rate"),
        },
    )  # fmt: skip
