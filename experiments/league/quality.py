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
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from entries import ENTRIES, HERE, REPORT, TUNE, Job, Plan, share
from standings import SHOWN, best, order, reported, sheet, table, true_views

from sdsjax.build import Pieces, build, build_optimizer
from sdsjax.checks import resolve
from sdsjax.compile_cache import enable_compile_cache
from sdsjax.files import read_rows
from sdsjax.session import INIT
from sdsjax.toybox import score as scoring
from sdsjax.toybox.captions import parse_caption
from sdsjax.toybox.views import heldout_orbits
from sdsjax.train_step import init_state, make_train_step

FIGURES = ("iou", "psnr", "ssim", "chamfer", "janus_rate")


class Stage:
    """What the runs share: the networks, each prompt's states, compiled functions."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.steps_of: dict[tuple, tuple[Callable, Callable, int]] = {}
        self.pieces, self.prior_params = None, {}
        self.draw: Callable | None = None

    def build(self, prompt: str) -> tuple[Pieces, Any]:
        """The pieces of the first prompt asked for, and this prompt's parameters."""
        if prompt not in self.prior_params:
            found = build(self.config(prompt, 1))
            self.pieces = self.pieces or found
            self.prior_params[prompt] = found.source.params
        assert self.pieces is not None
        return self.pieces, self.prior_params[prompt]

    def config(self, prompt: str, steps: int):
        given = {"prompt": prompt, "steps": steps, "batch_size": self.plan.batch}
        return resolve("sds", given)

    def compiled(self, job: Job, pieces: Pieces) -> tuple[Callable, Callable, int]:
        """(start, step, number of steps); setting and rate are traced where they can
        be, so that an estimator is compiled once."""
        entry = ENTRIES[job.estimator]
        name = (job.estimator, job.setting if entry.static else None)
        if name in self.steps_of:
            return self.steps_of[name]
        steps = self.plan.steps(entry)
        shapes, _ = jax.eval_shape(pieces.representation.init, jax.random.key(0))
        adam, _ = build_optimizer(self.config(job.prompt, steps), shapes)
        cameras = pieces.phases[-1].cameras

        def made(value, rate):
            value = job.setting if entry.static else value
            optimizer = optax.chain(adam, optax.scale(rate))
            return entry.make(pieces.schedule, value), optimizer

        def start(value, rate, prior_params, key):
            return init_state(
                pieces.source, pieces.representation, *made(value, rate), cameras,
                prior_params, jax.random.fold_in(key, INIT),
            )  # fmt: skip

        def step(value, rate, state, prior_params, key):
            train_step = make_train_step(
                pieces.source, pieces.representation, *made(value, rate),
                pieces.sampler, cameras, total=steps,
            )  # fmt: skip
            state, metrics = train_step(state, prior_params, key)
            return state, metrics["finite"]

        self.steps_of[name] = jax.jit(start), jax.jit(step, donate_argnums=2), steps
        return self.steps_of[name]

    def views(self, pieces: Pieces, params, rep_state) -> scoring.Views:
        """The held-out views, then SHOWN, on white."""
        render = pieces.representation.render
        cameras = scoring.orbit_cameras(heldout_orbits() + SHOWN, scoring.SIZE)
        if self.draw is None:
            self.draw = jax.jit(
                lambda params, state: jax.lax.map(
                    lambda camera: render(params, state, camera, None)[:4], cameras
                )
            )
        drawn = jax.device_get(self.draw(params, rep_state))
        return scoring.Views(*(np.nan_to_num(a, posinf=0, neginf=0) for a in drawn))

    def perform(self, job: Job, root: Path) -> dict:
        """One run: its scores, its CPU seconds, a strip of SHOWN in `root`."""
        pieces, prior_params = self.build(job.prompt)
        begin, step, steps = self.compiled(job, pieces)
        key = jax.random.key(job.seed)
        value, rate = jnp.float32(job.setting), jnp.float32(job.rate)
        began, compiled = time.process_time(), 0.0
        state, finite = begin(value, rate, prior_params, key), True
        for index in range(steps):
            state, good = step(value, rate, state, prior_params, key)
            finite = finite & good
            if index == 0:
                jax.block_until_ready(state)
                compiled = time.process_time() - began
        finite = bool(finite)
        seconds = time.process_time() - began - compiled
        views = self.views(pieces, state.params, state.rep_state)
        spec, _ = parse_caption(job.prompt)
        truth, fronts, _ = true_views(job.prompt)
        held = scoring.Views(*(a[: len(heldout_orbits())] for a in views))
        found = scoring.compare(held, truth, fronts, spec, scoring.SIZE)
        save(
            np.concatenate([*views.rgb[len(heldout_orbits()) :]], 1), job.picture(root)
        )
        return {
            "key": job.key(),
            **job._asdict(),
            "steps": steps,
            "finite": finite,
            "truth": {name: found[name] for name in FIGURES},
            "cpu_seconds": round(seconds * steps / max(steps - 1, 1), 2),
        }


def save(rgb: np.ndarray, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)).save(path)


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

    def perform(jobs) -> bool:
        for job in jobs:
            if job.key() in done:
                continue
            if time.monotonic() > ends:
                return False
            row = stage.perform(job, root)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as stream:
                # The newline first: whatever a crash left of a line stays by itself.
                stream.write("\n" + json.dumps(row) + "\n")
            done[job.key()] = row
            print(f"{job.key()}: share {share(row):.3f}", flush=True)
        return True

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
    text = table(plan, done)
    (options.out / "toybox-sd.md").write_text(text)
    sheet(plan, done, options.runs, options.out / "toybox-sd.png")
    print(text)


if __name__ == "__main__":
    main()
