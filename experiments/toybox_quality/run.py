"""SDS against SSD on the toybox, scored against ground truth; see README.md.

Two settings are tuned (SDS's guidance scale, SSD's M) on the tuning prompts, then both
estimators are reported on other prompts with the chosen setting. One JSON line a run
in `results/<size>.jsonl`: what is there is not run again, so the command may be stopped
and repeated at will.

    python experiments/toybox_quality/run.py            # small: a look, minutes
    python experiments/toybox_quality/run.py --full     # the claim: hours on a CPU
    python experiments/toybox_quality/run.py --full --only-report
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sdsjax.files.atomic import read_rows

HERE = Path(__file__).resolve().parent
ESTIMATORS = {"sds": "guidance_scale", "ssd": "threshold"}


class Plan(NamedTuple):
    """prompts to tune and to report on (the first `spread` with all seeds); settings of
    each estimator; steps of a run and of the ceiling's fit (None: the config's own)."""

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
    """One run of the main job with the least exports; the ceiling has its own job."""
    import sdsjax

    overrides = {"seed": job.seed, "preview_every": 0, "checkpoint_every": 0}
    overrides |= {"exports.turntable_frames": 8, "exports.mesh_resolution": 24}
    overrides["scoring.ceiling"] = False
    overrides[f"estimator.{ESTIMATORS[job.estimator]}"] = job.setting
    if plan.steps is not None:
        overrides["steps"] = plan.steps
    asset = sdsjax.generate(
        job.prompt, job.estimator, workdir=job.folder(root), **overrides
    )
    metrics = asset.metrics
    return {"truth": metrics["truth"], "seconds": metrics.get("seconds")}


def fit_ceiling(job: Job, plan: Plan) -> dict:
    """The same representation as in the runs, fitted to true renders."""
    from sdsjax.cli.checks import resolve
    from sdsjax.training.build import build
    from sdsjax.training.ceiling import ceiling

    representation = build(resolve("ssd", {"prompt": job.prompt})).representation
    scores = ceiling(job.prompt, representation, steps=plan.fit_steps, seed=job.seed)
    return {"truth": scores}


def perform(jobs: Iterable[Job], plan: Plan, path: Path, root: Path) -> dict:
    """Runs what is not done yet, appending a line each; returns all that is done."""
    done = read_rows(path, "key")
    jobs = list(jobs)
    for index, job in enumerate(jobs):
        if job.key() in done:
            continue
        print(f"[{index + 1}/{len(jobs)}] {job.key()}", file=sys.stderr, flush=True)
        row = {"key": job.key(), **job._asdict()}
        ceiling = job.estimator == "ceiling"
        row |= fit_ceiling(job, plan) if ceiling else distil(job, plan, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            # The newline first: whatever a crash left of a line stays by itself.
            stream.write("\n" + json.dumps(row) + "\n")
        done[job.key()] = row
    return done


def share(row: dict, done: dict) -> float:
    """What a run reached of its ceiling: the mean of its IoU's and its PSNR's share."""
    best = done[Job("ceiling", 0, row["prompt"], 0).key()]["truth"]
    truth = row["truth"]
    return 0.5 * (truth["iou"] / best["iou"] + truth["psnr"] / best["psnr"])


def choose(plan: Plan, done: dict) -> dict[str, float]:
    """Each estimator's setting with the best median share over the tuning prompts."""

    def median(estimator: str, setting: float) -> float:
        rows = [done[Job(estimator, setting, p, 0).key()] for p in plan.tune]
        return statistics.median(share(row, done) for row in rows)

    return {
        name: max(settings, key=lambda s, name=name: median(name, s))
        for name, settings in plan.settings.items()
    }


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


def _cell(values: Sequence[float], digits: int) -> str:
    """One value, or the mean with the range of several."""
    if any(v is None for v in values):
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def table(plan: Plan, chosen: dict[str, float], done: dict) -> str:
    """Markdown: the tuning, then one row a prompt, then the medians."""
    lines = ["| estimator | setting | median share of the ceiling (tuning prompts) |"]
    lines.append("|---|---|---|")
    for name, settings in plan.settings.items():
        for s in settings:
            rows = [done[Job(name, s, p, 0).key()] for p in plan.tune]
            mark = " **chosen**" if s == chosen[name] else ""
            value = statistics.median(share(row, done) for row in rows)
            lines.append(f"| {name} | {ESTIMATORS[name]} {s:g}{mark} | {value:.3f} |")
    figures = (("iou", 3), ("psnr", 1), ("chamfer", 3), ("janus_rate", 2))
    heads = [f"{f} {n}" for f, _ in figures for n in (*chosen, "ceiling")]
    lines += ["", "| prompt | " + " | ".join(heads) + " |", "|---" * 13 + "|"]
    jobs = report_jobs(plan, chosen)
    columns: dict[str, list[float]] = {head: [] for head in heads}
    for prompt in plan.report:
        cells = []
        for figure, digits in figures:
            for name in (*chosen, "ceiling"):
                keys = [
                    j.key() for j in jobs if (j.estimator, j.prompt) == (name, prompt)
                ]
                keys = keys or [Job("ceiling", 0, prompt, 0).key()]
                values = [done[key]["truth"][figure] for key in keys]
                columns[f"{figure} {name}"] += [v for v in values[:1] if v is not None]
                cells.append(_cell(values, digits))
        lines.append(f"| {prompt} | " + " | ".join(cells) + " |")
    medians = [statistics.median(v) if v else None for v in columns.values()]
    cells = [_cell([v], 3) for v in medians]
    lines.append("| **median** | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def contact_sheet(plan: Plan, chosen: dict[str, float], root: Path, path: Path) -> None:
    """A row a prompt: truth, then each estimator, from the five canonical views."""
    import numpy as np
    from PIL import Image

    rows = []
    for prompt in plan.report:
        pictures = [
            Job(name, setting, prompt, 0).folder(root) / "views.png"
            for name, setting in chosen.items()
        ]
        if not all(picture.exists() for picture in pictures):
            continue
        views = [np.asarray(Image.open(p).convert("RGB").reduce(2)) for p in pictures]
        half = views[0].shape[0] // 2
        rows.append(
            np.concatenate([views[0][half:], *(v[:half] for v in views)], axis=1)
        )
    if rows:
        Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the whole claim, hours")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/toybox_quality"))
    options = parser.parse_args()
    plan, name = (FULL, "full") if options.full else (SMALL, "small")
    path, root = HERE / "results" / f"{name}.jsonl", options.runs / name
    tuning = tuning_jobs(plan)
    done = (
        read_rows(path, "key")
        if options.only_report
        else perform(tuning, plan, path, root)
    )
    missing = [job.key() for job in tuning if job.key() not in done]
    if missing:
        sys.exit(f"{len(missing)} runs are missing, first: {missing[0]}")
    chosen = choose(plan, done)
    jobs = report_jobs(plan, chosen)
    if not options.only_report:
        done = perform(jobs, plan, path, root)
    missing = [job.key() for job in jobs if job.key() not in done]
    if missing:
        sys.exit(f"{len(missing)} runs are missing, first: {missing[0]}")
    text = table(plan, chosen, done)
    (HERE / "results" / f"{name}.md").write_text(text)
    contact_sheet(plan, chosen, root, HERE / "results" / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
