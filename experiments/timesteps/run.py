"""HiFA's figure 7: schedules of t at equal cost, scored against the truth.

See README.md. Pixels are distilled on an exact prior of toybox pictures, with
`--toybox` Gaussians on toybox-sd (on_toybox.py).

    python experiments/timesteps/run.py            # small: a minute or two
    python experiments/timesteps/run.py --full     # README.md's table
    python experiments/timesteps/run.py --toybox   # and with --full its second one
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import on_toybox
from figure import picture
from samplers import SAMPLERS

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
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
from sdsjax.types import Estimator

HERE = Path(__file__).resolve().parent
SCHEDULE = NoiseSchedule.scaled_linear()
CAPTIONS = ("a red snowman", "a blue house", "a green car", "a yellow duck")
SPREAD = 0.005
ESTIMATED = {
    "sds, s = 7.5": lambda: ESTIMATORS["sds"](SCHEDULE, guidance_scale=7.5),
    "sds, s = 100": lambda: ESTIMATORS["sds"](SCHEDULE, guidance_scale=100.0),
    "ssd, M = 500": lambda: ESTIMATORS["ssd"](SCHEDULE, threshold=500),
}


class Plan(NamedTuple):
    """pixels a side, views a caption, steps, Adam's rates, seeds, estimators."""

    size: int
    views: int
    steps: int
    rates: tuple[float, ...]
    seeds: int
    estimators: tuple[str, ...]


SMALL = Plan(8, 4, 120, (0.03,), 2, ("sds, s = 7.5",))
FULL = Plan(12, 6, 500, (0.01, 0.03), 3, tuple(ESTIMATED))


def time_tables(steps: int, seeds: int) -> np.ndarray:
    """The timesteps [samplers seeds steps] that every sampler draws in a run."""

    def one(sampler, key):
        keys = jax.random.split(key, steps)
        return jax.vmap(lambda k, i: sampler(k, i, steps, ()))(keys, jnp.arange(steps))

    keys = jax.random.split(jax.random.key(1), seeds)
    tables = [jax.vmap(lambda k, s=s: one(s, k))(keys) for s in SAMPLERS.values()]
    return np.stack([np.asarray(t) for t in tables])


def scores(plan: Plan, pictures, estimator: Estimator):
    """The PSNR [samplers rates captions seeds] of every run to its nearest picture.

    And the last z of the first seed [samplers rates captions ...].
    """
    flat = jnp.asarray(pictures.reshape(-1, *pictures.shape[2:]))
    weights = jnp.full(len(flat), 1.0)

    def one(times, key, rate, kept, truth):
        prior = gaussian_mixture(SCHEDULE, weights, flat, SPREAD * weights, kept)
        key_start, key_run = jax.random.split(key)
        start = 0.1 * jax.random.normal(key_start, truth.shape[1:])
        z = distil(
            prior, estimator,
            lambda key, step, total, shape: jnp.broadcast_to(times[step], shape),
            start, key_run, steps=plan.steps, rate=rate,
        ).z[-1]  # fmt: skip
        return nearest_psnr(z, truth), z

    over = jax.vmap(one, (0, 0, None, None, None))
    over = jax.vmap(over, (None, None, None, 0, 0))
    over = jax.vmap(over, (None, None, 0, None, None))
    over = jax.vmap(over, (0, None, None, None, None))
    found, z = jax.jit(over)(
        jnp.asarray(time_tables(plan.steps, plan.seeds)),
        jax.random.split(jax.random.key(0), plan.seeds),
        jnp.asarray(plan.rates),
        jnp.asarray(kept_by_caption(*pictures.shape[:2])),
        jnp.asarray(pictures),
    )
    return np.asarray(found), np.asarray(z[:, :, :, 0])


def worker(run: Run):
    plan = run.plan
    pictures = toybox_pictures(CAPTIONS, views=plan.views, size=plan.size)

    def perform(name: str) -> dict:
        psnr, z = scores(plan, pictures, ESTIMATED[name]())
        return {"psnr": pack_array(psnr), "pictures": pack_array(z[:, 0, 0])}

    return perform


def table(run: Run) -> str:
    """Markdown: a row a schedule, a column an estimator and a rate."""
    plan = run.plan
    psnr = {name: unpack_array(row["psnr"]) for name, row in run.rows.items()}
    rows = []
    for i, sampler in enumerate(SAMPLERS):
        each = [
            mean_error_over_captions(f) for found in psnr.values() for f in found[i]
        ]
        rows.append([sampler, *(f"{mean:.1f} +- {error:.1f}" for mean, error in each)])
    heads = [f"{name}, rate {rate:g}" for name in psnr for rate in plan.rates]
    lines = [
        f"PSNR (dB) to the nearest true picture, {len(CAPTIONS)} captions x "
        f"{plan.seeds} seeds, {plan.size} x {plan.size}, {plan.steps} steps of one "
        "noise; +- is the standard error over captions.",
        "",
        *markdown_table(["timesteps", *heads], rows),
    ]
    return "\n".join(lines) + "\n"


def figure(run: Run) -> None:
    plan = run.plan
    truth = toybox_pictures(CAPTIONS, views=plan.views, size=plan.size)[0, 0]
    picture(run.rows, truth, run.file(".png"))


def main(argv=None) -> None:
    exact = Experiment(
        HERE, __doc__, SMALL, FULL, worker=worker, table=table, figure=figure,
        jobs=lambda run: [(name, name) for name in run.plan.estimators],
    )  # fmt: skip
    run(argv, exact, on_toybox.experiment())


if __name__ == "__main__":
    main()
