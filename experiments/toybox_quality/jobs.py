"""The runs of the quality experiment: plans, jobs, and what one job is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ESTIMATORS = {"sds": "guidance_scale", "ssd": "threshold"}


class Plan(NamedTuple):
    """What is tuned, what is reported, and how long a run is.

    Prompts to tune and to report on (the first `spread` with all seeds); settings of
    each estimator; steps of a run and of the ceiling's fit (None: the config's own).
    """

    tune: tuple[str, ...]
    report: tuple[str, ...]
    settings: dict[str, tuple[float, ...]]
    seeds: tuple[int, ...]
    spread: int
    steps: int | None
    fit_steps: int


FULL = Plan(
    tune=("a red mug", "a yellow duck", "a white snowman", "a green chair"),
    report=(
        "a blue house",
        "a pink teapot",
        "a green car",
        "an orange rocket",
        "a purple robot",
        "a cyan fish",
        "a red mailbox",
        "a white airplane",
        "a green tree",
        "an orange cat",
        "a red ball on a blue cube",
        "a yellow mug on a purple table",
    ),
    settings={
        "sds": (7.5, 20.0, 50.0, 100.0),
        "ssd": (200.0, 300.0, 500.0, 700.0),
    },
    seeds=(0, 1, 2),
    spread=3,
    steps=None,
    fit_steps=400,
)
SMALL = Plan(
    tune=("a red mug",),
    report=("a blue house", "a red ball on a blue cube"),
    settings={"sds": (20.0,), "ssd": (500.0,)},
    seeds=(0,),
    spread=0,
    steps=60,
    fit_steps=60,
)


class Job(NamedTuple):
    """One run; estimator "ceiling" is the fit to true renders."""

    estimator: str
    setting: float
    prompt: str
    seed: int

    def key(self) -> str:
        return f"{self.estimator} {self.setting:g} | {self.prompt} | seed {self.seed}"

    def folder(self, root: Path) -> Path:
        words = f"{self.estimator}-{self.setting:g}-{self.prompt}-{self.seed}"
        return root / words.replace(" ", "-")


def distil(job: Job, plan: Plan, root: Path) -> dict:
    """One run of the main program with the least exports and without its ceiling."""
    import sdsjax

    overrides = {"seed": job.seed, "preview_every": 0, "checkpoint_every": 0}
    overrides |= {"exports.turntable_frames": 8, "exports.mesh_resolution": 24}
    overrides["scoring.ceiling"] = False
    overrides[f"estimator.{ESTIMATORS[job.estimator]}"] = job.setting
    if plan.steps is not None:
        overrides["steps"] = plan.steps
    asset = sdsjax.generate(
        job.prompt, f"{job.estimator}:toybox", workdir=job.folder(root), **overrides
    )
    metrics = asset.metrics
    return {"truth": metrics["truth"], "seconds": metrics.get("seconds")}


def fit_ceiling(job: Job, plan: Plan) -> dict:
    """Fits the same representation as in the runs to true renders."""
    from sdsjax.cli.checks import resolve
    from sdsjax.training.build import build
    from sdsjax.training.ceilings.fit import ceiling

    representation = build(resolve("ssd", {"prompt": job.prompt})).representation
    scores = ceiling(job.prompt, representation, steps=plan.fit_steps, seed=job.seed)
    return {"truth": scores}


def tuning_jobs(plan: Plan) -> list[Job]:
    jobs = [Job("ceiling", 0, p, 0) for p in (*plan.tune, *plan.report)]
    for name, settings in plan.settings.items():
        jobs += [Job(name, s, p, 0) for s in settings for p in plan.tune]
    return jobs


def report_jobs(plan: Plan, chosen: dict[str, float]) -> list[Job]:
    jobs = []
    for index, prompt in enumerate(plan.report):
        seeds = plan.seeds if index < plan.spread else plan.seeds[:1]
        jobs += [Job(n, s, prompt, seed) for n, s in chosen.items() for seed in seeds]
    return jobs


def named(jobs: list[Job]) -> Iterator[tuple[str, Job]]:
    """Jobs with their keys."""
    for job in jobs:
        yield job.key(), job
