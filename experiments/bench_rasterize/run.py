"""What a pixel-Gaussian pair costs, against autodiff and against the machine.

    python experiments/bench_rasterize/run.py          # 5k at 256x256
    python experiments/bench_rasterize/run.py --full   # 20k, 100k at 512x512, 8 views

Everything is timed in one process, in rounds that visit every candidate once; figures
are medians over the rounds, ratios are medians of each round's ratio. Beside the time
on the clock stands the processor time of this process, which other processes' load
does not lengthen. Writes results/<size>.json and results/<size>.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from figures import figures, markdown
from scenes import (
    BINNED,
    Scene,
    autodiff,
    binning_of,
    cameras_of,
    gaussians_of,
    gradient_of,
    longest_list,
    picture_of,
    splats_of,
    whole_plan,
)

from sdsjax.studies.benchmark import Candidate, described_machine, time_in_rounds
from sdsjax.studies.runner import Experiment, Option, Run, run

HERE = Path(__file__).resolve().parent


class Plan(NamedTuple):
    """scenes; those that autodiff is tried on; views in a batch; rounds."""

    scenes: tuple[Scene, ...]
    against: tuple[Scene, ...]
    views: tuple[int, ...]
    rounds: int = 11


SMALL = Plan((BINNED,), (BINNED,), (1, 2, 4))
FULL = Plan(
    (BINNED, Scene(20_000, 256), Scene(100_000, 512)),
    (BINNED, Scene(20_000, 256)),
    (1, 2, 4, 8),
)


def floor_candidates(size: int) -> dict[str, Candidate]:
    """Two kernels that stay in cache: one of multiply-adds, one of exponentials."""
    x = jnp.linspace(0.0, 1e-3, 1 << size)

    def flops(x):
        def body(_, x):
            for _ in range(32):
                x = x * 0.999 + 1e-6
            return x

        return jax.lax.fori_loop(0, 64, body, x)

    def exps(x):
        def body(_, x):
            for _ in range(8):
                x = jnp.exp(-x)
            return x

        return jax.lax.fori_loop(0, 64, body, x)

    return {"flops": Candidate(flops, x), "exps": Candidate(exps, x)}


def collect(plan: Plan) -> dict[str, Candidate]:
    """Compiles everything, then times it in rounds."""
    candidates: dict[str, Candidate] = {}
    for scene in plan.scenes:
        arguments = gaussians_of(scene), cameras_of(scene)
        candidates[f"picture {scene.label}"] = Candidate(picture_of(scene), *arguments)
        candidates[scene.label] = Candidate(gradient_of(scene), *arguments)
    for count in plan.views[1:]:
        scene = BINNED._replace(views=count)
        candidates[scene.label] = Candidate(
            gradient_of(scene), gaussians_of(scene), cameras_of(scene)
        )
    candidates["binning"] = Candidate(binning_of(BINNED), splats_of(BINNED))
    candidates |= floor_candidates(14)
    heavy: dict[str, Candidate] = {}
    for scene in plan.against:
        arguments = gaussians_of(scene), cameras_of(scene)
        accumulate = autodiff(longest_list(scene), whole_plan(scene).capacity)
        heavy[f"autodiff {scene.label}"] = Candidate(
            gradient_of(scene, accumulate), *arguments
        )
    # In rounds of their own: what they free, gigabytes, slows whoever comes next.
    time_in_rounds(candidates.values(), plan.rounds)
    time_in_rounds(heavy.values(), plan.rounds)
    return candidates | heavy


def measure(run: Run) -> dict:
    """Everything, and the machine it was measured on."""
    load = os.getloadavg()[0]
    found = figures(run.plan, collect(run.plan))
    return described_machine(run.plan.rounds, load) | found


def main(argv=None) -> None:
    experiment = Experiment(
        HERE, __doc__, SMALL, FULL, measure=measure,
        table=lambda run: markdown(run.rows),
        options={"rounds": Option("so many times each")},
    )  # fmt: skip
    run(argv, experiment)


if __name__ == "__main__":
    main()
