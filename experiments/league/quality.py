"""The league on toybox-sd: Gaussians, ground truth, equal network calls; see README.md.

A run makes `calls` evaluations of the UNet, a backward pass of VSD's LoRA counting as
two, so that an estimator of b calls a view takes calls / (b batch) steps. Each is tuned
on the prompts of TUNE in a few trials (two settings at the first of `rates`, which
multiply all learning rates, then the others at the better one) and reported at the
best. One JSON line a run in `results/toybox-sd.jsonl`: what is there is not run again,
so the command may be stopped and repeated at will. One compiled step an estimator
serves all prompts and seeds.

    python experiments/league/run.py --full
    python experiments/league/run.py --full --calls 4800 --prompts 6 --seeds 3
    python experiments/league/run.py --full --only-report
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
from entries import ENTRIES, HERE, REPORT, TUNE, Job, Plan, share
from standings import best, order, reported, sheet, table

from sdsjax.cli.checks import resolve
from sdsjax.files.atomic import read_rows
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.run_rows import complete, save_picture
from sdsjax.studies.toybox_run import ToyboxRuns
from sdsjax.training.build import build


class Stage:
    """The plan's runs; an estimator is compiled once, or once a setting that cannot be
    traced."""

    def __init__(self, plan: Plan):
        def pieces(prompt: str, steps: int):
            given = {"prompt": prompt, "steps": steps, "batch_size": plan.batch}
            return build(resolve("sds", given))

        self.plan, self.runs = plan, ToyboxRuns(pieces)

    def perform(self, job: Job, root: Path) -> dict:
        """One run: its scores, its CPU seconds, a strip of views in `root`."""
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
            "key": job.key(),
            **job._asdict(),
            "steps": steps,
            "finite": found.finite,
            "truth": found.truth,
            "cpu_seconds": found.cpu_seconds,
        }


def tuning(name: str, plan: Plan, done: dict) -> Iterator[Job]:
    """The trials still missing, each once those before it are in `done`."""
    entry = ENTRIES[name]
    for setting in entry.candidates:
        for prompt in TUNE:
            yield Job(name, setting, plan.rates[0], prompt, 0, plan.calls)
    setting, _ = best(name, plan, done)
    for rate in plan.rates[1:]:
        for prompt in TUNE:
            yield Job(name, setting, rate, prompt, 0, plan.calls)


def run_all(plan: Plan, names, path: Path, root: Path, minutes: float) -> None:
    """Tunes and reports each estimator at seed 0, then reports the other seeds; begins
    no run after `minutes`."""
    ends, done = time.monotonic() + 60 * minutes, read_rows(path, "key")
    stage = Stage(plan)

    def one(job: Job) -> dict:
        row = stage.perform(job, root)
        print(f"{job.key()}: share {share(row):.3f}", flush=True)
        return row

    def perform(jobs) -> bool:
        named = ((job.key(), job) for job in jobs)
        return complete(named, one, path, done, ends=ends)

    for name in names:
        if not perform(tuning(name, plan, done)):
            return
        if not perform(reported(name, plan, done, (0,))):
            return
    for seed in range(1, plan.seeds):
        for name in names:
            if not perform(reported(name, plan, done, (seed,))):
                return


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="this one")
    parser.add_argument(
        "--calls", type=int, default=4800, help="UNet evaluations a run"
    )
    parser.add_argument("--batch", type=int, default=2, help="views a step")
    parser.add_argument("--prompts", type=int, default=len(REPORT))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--minutes", type=float, default=1e6, help="begin none later")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/league"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    plan = Plan(
        options.calls, options.batch, options.prompts, options.seeds,
        tuple(options.rates),
    )  # fmt: skip
    path = options.out / "toybox-sd.jsonl"
    if not options.only_report:
        enable_compile_cache()
        run_all(plan, options.only, path, options.runs, options.minutes)
    done = read_rows(path, "key")
    if not order(plan, done):
        return
    text = table(plan, done, read_rows(options.out / "toybox-noise.jsonl", "key"))
    (options.out / "toybox-sd.md").write_text(text)
    sheet(plan, done, options.runs, options.out / "toybox-sd.png")
    print(text)


if __name__ == "__main__":
    main()
