"""SteinDreamer's figures 1, 5, 6 and section 3 on toybox-sd; see README.md.

Gaussians are distilled under VSD, and under Stein with each baseline (mu learnt per
element). At points of the VSD run one view of it is drawn, and all estimators are
measured there with the same (t, eps): toybox_samples.py has the notation. One row a
prompt in `results/<size>-toybox.jsonl`.

    python experiments/stein_variance/run.py --toybox          # small: minutes
    python experiments/stein_variance/run.py --toybox --full   # README.md's tables
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from toybox_figures import crossed, directions, figures
from toybox_report import picture, table
from toybox_runs import build_vsd, costs, distil, learnt, onward
from toybox_samples import BASELINES, Sampling, steins

from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.runner import Experiment, Option, Run
from sdsjax.training.build import RunComponents

HERE = Path(__file__).resolve().parent


class Plan(NamedTuple):
    """How long the runs are, and how much is measured.

    prompts; a run's steps, views a step and parts, at whose ends is measured; samples;
    psi's further steps at the last theta; estimates evaluated at once; rounds in which
    costs are timed.
    """

    prompts: tuple[str, ...]
    steps: int
    batch: int
    parts: int
    samples: int
    onward: tuple[int, ...]
    chunk: int
    rounds: int


SMALL = Plan(("a red snowman",), 30, 4, 1, 32, (30,), 8, 2)
FULL = Plan(("a red snowman",), 300, 4, 3, 768, (300,), 8, 4)


def along(built: RunComponents, plan: Plan, sampling: Sampling):
    """Measures along the run.

    Returns its points, CPU seconds a step by estimator, VSD's last state, and SDS's
    samples there.
    """
    print("  vsd", flush=True)
    trace, vsd_seconds = distil(built, plan, built.estimator)
    seconds, states = {"vsd": vsd_seconds}, {}
    for name, estimator in steins(built.schedule, fit="element").items():
        print(f"  stein, {name}", flush=True)
        kept, seconds[name] = distil(built, plan, estimator)
        states[name] = [state.estimator_state for state in kept]
    points, named = [], {}
    for index, state in enumerate(trace):
        print(f"  point {index}", flush=True)
        found = sampling.samples(state)
        mus = {name: learnt(states[name][index]) for name in BASELINES}
        best = crossed(found)
        named = directions(found, mus, best)
        points.append(
            {
                "step": plan.steps * index // plan.parts,
                "z": figures(named),
                "theta": figures(named, sampling.root(state, found.a.shape[1:])),
                "mu": {n: float(mus[n]["number"]) for n in BASELINES},
                "best": {n: float(np.mean(best[n])) for n in BASELINES},
            }
        )
    return points, seconds, trace[-1], named["sds"]


def worker(run: Run):
    enable_compile_cache()
    plan = run.plan

    def perform(prompt: str) -> dict:
        print(prompt, flush=True)
        built = build_vsd(plan, prompt)
        sampling = Sampling(built, plan.samples, plan.chunk)
        points, seconds, last, sds = along(built, plan, sampling)
        return {
            "points": points,
            "seconds": seconds,
            "onward": onward(built, plan, sampling, last, sds),
            "costs": costs(built, plan, last),
        }

    return perform


def experiment() -> Experiment:
    return Experiment(
        HERE, __doc__, SMALL, FULL, worker=worker, flag="--toybox", key="prompt",
        jobs=lambda run: [(prompt, prompt) for prompt in run.plan.prompts],
        table=lambda run: table(run.plan, list(run.rows.values())),
        figure=lambda run: picture(list(run.rows.values()), run.file(".png")),
        stem="{size}-toybox", options={"prompts": Option("instead of a red snowman")},
    )  # fmt: skip
