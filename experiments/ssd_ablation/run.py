"""SSD's figures 6, 13, 14 with ground truth: M, the rescaling, the reduction.

See README.md. Pixels are distilled on an exact prior of toybox pictures, with
`--toybox` Gaussians on toybox-sd (on_toybox.py).

    python experiments/ssd_ablation/run.py            # small: a minute or two
    python experiments/ssd_ablation/run.py --full     # README.md's table
    python experiments/ssd_ablation/run.py --toybox   # and with --full its second one
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import on_toybox
from figure import picture
from variants import VARIANTS, ssd_at

from sdsjax.diffusion import NoiseSchedule
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.exact_run import (
    distil,
    kept_by_caption,
    nearest_psnr,
    toybox_pictures,
)
from sdsjax.studies.report import markdown_table
from sdsjax.studies.results import pack_array, unpack_array
from sdsjax.studies.runner import Experiment, Run, run
from sdsjax.studies.statistics import mean_error_over_captions

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
CAPTIONS = ("a red snowman", "a blue house", "a green car", "a yellow duck")
SPREAD = 0.005  # variance around every picture: what a trained prior calls plausible
SAMPLERS = {
    "uniform": TIMESTEPS["uniform"](),
    "window to 50": TIMESTEPS["annealed_window"](t_end=50),
}


class Plan(NamedTuple):
    """pixels a side, views a caption, steps, Adam's rate, seeds, thresholds M."""

    size: int
    views: int
    steps: int
    rate: float
    seeds: int
    thresholds: tuple[int, ...]


SMALL = Plan(8, 4, 120, 0.03, 2, (0, 500))
FULL = Plan(12, 6, 500, 0.02, 3, (0, 100, 200, 300, 500, 700, 1000))


def scores(plan: Plan, pictures, sampler: str):
    """The PSNR of every run and what the first ones end at, under one sampler.

    PSNR [variants thresholds captions seeds 3] to the nearest true picture after a
    quarter, a half and the whole of a run from grey with a little noise; the last z
    [variants thresholds h w 3] of the first caption and seed.
    """
    flat = jnp.asarray(pictures.reshape(-1, *pictures.shape[2:]))
    weights = jnp.full(len(flat), 1.0)

    def one(settings, threshold, kept, truth, key):
        prior = gaussian_mixture(SCHEDULE, weights, flat, SPREAD * weights, kept)
        key_start, key_run = jax.random.split(key)
        start = 0.1 * jax.random.normal(key_start, truth.shape[1:])
        trace = distil(
            prior, ssd_at(SCHEDULE, threshold, *settings), SAMPLERS[sampler], start,
            key_run, steps=plan.steps, rate=plan.rate, parts=4,
        )  # fmt: skip
        each = jax.vmap(lambda z: nearest_psnr(z, truth))(trace.z)
        return each[jnp.array([1, 2, 4])], trace.z[-1]

    over = jax.vmap(
        jax.vmap(one, (None, None, None, None, 0)), (None, None, 0, 0, None)
    )
    over = jax.vmap(
        jax.vmap(over, (None, 0, None, None, None)), (0, None, None, None, None)
    )
    found, last = jax.jit(over)(
        jnp.array(list(VARIANTS.values())),
        jnp.asarray(plan.thresholds),
        jnp.asarray(kept_by_caption(*pictures.shape[:2])),
        jnp.asarray(pictures),
        jax.random.split(jax.random.key(0), plan.seeds),
    )
    return np.asarray(found), np.asarray(last[:, :, 0, 0])


def worker(run: Run):
    plan = run.plan
    pictures = toybox_pictures(CAPTIONS, views=plan.views, size=plan.size)

    def perform(sampler: str) -> dict:
        psnr, last = scores(plan, pictures, sampler)
        return {"psnr": pack_array(psnr), "pictures": pack_array(last)}

    return perform


def table(run: Run) -> str:
    """Markdown: PSNR after a quarter and after the whole run."""
    plan, rows = run.plan, []
    for sampler, row in run.rows.items():
        for variant, found in zip(VARIANTS, unpack_array(row["psnr"])):
            for index, part in ((0, "1/4"), (2, "1")):
                each = [mean_error_over_captions(f[..., index]) for f in found]
                cells = [f"{mean:.1f} +- {error:.1f}" for mean, error in each]
                rows.append([f"{sampler}, {variant}, {part}", *cells])
    first, *others = map(str, plan.thresholds)
    lines = [
        f"PSNR (dB) to the nearest true picture, {len(CAPTIONS)} captions x "
        f"{plan.seeds} seeds, {plan.size} x {plan.size}, {plan.steps} steps; +- is the "
        "standard error over captions.",
        "",
        *markdown_table(["timesteps, variant, after", f"M = {first}", *others], rows),
    ]
    return "\n".join(lines) + "\n"


def figure(run: Run) -> None:
    plan = run.plan
    pictures = toybox_pictures(CAPTIONS, views=plan.views, size=plan.size)
    picture(plan.thresholds, run.rows, pictures[0, 0], run.file(".png"))


def main(argv=None) -> None:
    exact = Experiment(
        HERE, __doc__, SMALL, FULL, worker=worker, table=table, figure=figure,
        jobs=lambda run: [(sampler, sampler) for sampler in SAMPLERS],
    )  # fmt: skip
    run(argv, exact, on_toybox.experiment())


if __name__ == "__main__":
    main()
