"""The league on an exact prior: pictures, equal network calls, equal tuning budgets.

See README.md. Scored against the true pictures; one row an estimator in
`results/exact.jsonl`.

    python experiments/league/run.py
    python experiments/league/run.py --only sds ssd
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from direction import as_row, snr_and_cosine
from exact_entries import ENTRIES, REPORT, SCHEDULE, SPREAD, TUNE, Entry
from exact_report import pack_levels, picture, table

from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.exact_run import distil, nearest_psnr, toybox_pictures
from sdsjax.studies.runner import Experiment, Option, Run
from sdsjax.toybox.training.degrade import blur

HERE = Path(__file__).resolve().parent
# Noise as DreamFusion draws it, and a width for every picture: on point masses with
# falling t all that seek a mode arrive, and nothing tells them apart (README.md).
SAMPLER = TIMESTEPS["uniform"]()
BLUR = 1.5  # pixels: the deviation of the blurred copies


class Plan(NamedTuple):
    """How long every run is, and how many there are.

    pixels a side, views a caption, evaluations of the prior a run, Adam's rates, seeds,
    samples for variance and bias, estimators.
    """

    size: int
    views: int
    branches: int
    rates: tuple[float, float]
    seeds: int
    samples: int
    only: tuple[str, ...] = tuple(ENTRIES)


SMALL = Plan(32, 6, 960, (0.01, 0.03), 2, 512)


class PicturePrior(NamedTuple):
    """The exact prior of pictures [captions views ...], tuning captions first.

    It knows as many blurred ones, which no caption keeps; they are what the negative
    prompt names.
    """

    pictures: np.ndarray

    def of(self, caption):
        """The prior whose prompt is one caption; its number may be traced."""
        captions, views, *shape = self.pictures.shape
        sharp = jnp.asarray(self.pictures.reshape(-1, *shape))
        count = len(sharp)
        means = jnp.concatenate([sharp, blur(sharp, jnp.full(count, BLUR))])
        one = jnp.ones(2 * count)
        of = jnp.repeat(jnp.arange(captions), views)
        kept = jnp.concatenate([of == caption, jnp.zeros(count, bool)])
        return gaussian_mixture(
            SCHEDULE, one, means, SPREAD * one, kept,
            negative=np.arange(2 * count) >= count,
        )  # fmt: skip


def make_runner(
    entry: Entry, plan: Plan, prior: PicturePrior, setting=None
) -> Callable:
    """Compiles (setting, rate, caption, keys [s]) -> scores of s runs.

    Scores: PSNR to the nearest true picture of the caption [s], whether the nearest of
    all is one of them [s], z [s ...].
    """
    steps = plan.branches // entry.branches
    pictures = jnp.asarray(prior.pictures)

    def one(value, rate, caption, key):
        estimator = entry.make(value if setting is None else setting)
        key_start, key_run = jax.random.split(key)
        start = 0.1 * jax.random.normal(key_start, pictures.shape[2:])
        z = distil(
            prior.of(caption), estimator, SAMPLER, start, key_run,
            steps=steps, rate=rate,
        ).z[-1]  # fmt: skip
        each = jax.vmap(lambda truth: nearest_psnr(z, truth))(pictures)
        return each[caption], jnp.argmax(each) == caption, z

    return jax.jit(jax.vmap(one, (None, None, None, 0)))


def seeds_of(plan: Plan, caption: int):
    return jax.random.split(jax.random.key(100 + caption), plan.seeds)


def tune_and_report(entry: Entry, plan: Plan, prior: PicturePrior) -> dict:
    """Tunes by mean PSNR on TUNE over 2 settings x 2 rates, then reports the best.

    Of REPORT: scores [captions seeds], pictures of the first seed, CPU seconds a run.
    """
    shared = None if entry.static else make_runner(entry, plan, prior)
    runners = {
        value: shared or make_runner(entry, plan, prior, value)
        for value in entry.candidates
    }

    def run(value, rate, caption):
        keys = seeds_of(plan, caption)
        return jax.device_get(runners[value](value, rate, caption, keys))

    tried = {
        (value, rate): np.mean([run(value, rate, c)[0] for c in range(len(TUNE))])
        for value in entry.candidates
        for rate in plan.rates
    }
    best = max(tried, key=tried.get)
    began = time.process_time()
    found = [run(*best, len(TUNE) + c) for c in range(len(REPORT))]
    seconds = (time.process_time() - began) / (len(REPORT) * plan.seeds)
    return {
        "setting": best[0],
        "rate": best[1],
        "tried": [[*key, float(score)] for key, score in tried.items()],
        "psnr": [scores.tolist() for scores, _, _ in found],
        "named": float(np.mean([named for _, named, _ in found])),
        "pictures": pack_levels(np.stack([z[0] for _, _, z in found])),
        "seconds": seconds,
    }


def variance_and_bias(
    entry: Entry, plan: Plan, prior: PicturePrior, value: float
) -> dict:
    """tr Cov / |E G|^2 of one sample, and the cosine of E G with E[e_y - eps].

    At .7 of a true picture and .3 of the next one, t uniform in [20, 980], w as tuned.
    """
    first = len(TUNE)
    exact, pictures = prior.of(first), prior.pictures[first]
    z = jnp.asarray(0.7 * pictures[0] + 0.3 * pictures[1])
    uniform = TIMESTEPS["uniform"]()
    reference = ESTIMATORS["mode_seeking_sds"](SCHEDULE)
    estimator = entry.make(value)
    state = estimator.init(exact, jax.random.key(1), jax.eval_shape(lambda: z))

    def estimated(estimator, state, key):
        key_t, key_noise = jax.random.split(key)
        t = uniform(key_t, 0, 1, ())
        return estimator.estimate(exact, key_noise, state, z, t, None)

    def own(key):
        found = estimated(estimator, state, key)
        return found.grad if found.image_grad is None else found.grad + found.image_grad

    @jax.jit
    def measure(key):
        return snr_and_cosine(
            own, lambda k: estimated(reference, (), k).grad, key, samples=plan.samples
        )

    return as_row(measure(jax.random.key(2)))


def pictures_of(plan: Plan) -> np.ndarray:
    return toybox_pictures((*TUNE, *REPORT), views=plan.views, size=plan.size)


def worker(run: Run):
    plan = run.plan
    prior = PicturePrior(pictures_of(plan))

    def perform(name: str) -> dict:
        print(name, flush=True)
        row = tune_and_report(ENTRIES[name], plan, prior)
        return row | variance_and_bias(ENTRIES[name], plan, prior, row["setting"])

    return perform


def figure(run: Run) -> None:
    truth = pictures_of(run.plan)[len(TUNE) :, 0]
    picture(run.rows, truth, run.file(".png"))


def experiment() -> Experiment:
    return Experiment(
        HERE, __doc__, SMALL, SMALL, worker=worker, figure=figure, stem="exact",
        jobs=lambda run: [(name, name) for name in run.plan.only], key="estimator",
        table=lambda run: table(run.plan, run.rows),
        options={"only": Option("some of the estimators", tuple(ENTRIES))},
    )  # fmt: skip
