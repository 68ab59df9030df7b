"""How noisy and how biased each estimator of the league is on toybox-sd; see README.md.

G is one sample of an estimator's gradient in z, at the setting that the league chose: z
= .7 of the latent of a true view of PROMPT and .3 of the next one's, the prior told
the first one's camera; t uniform in [20, 980]. tr Cov / |E G|^2, and the cosine of E G
with E[e_y - eps] at w = sigma^2 (equal keys: equal noise). What learns (vsd's second
network, stein's mu) has first learnt at this z for as many steps as a run has. Of
sds_plus, the part in z: its part in x is no direction in z. One row an estimator in
`results/toybox-noise.jsonl`, shown by the league's own table.

    python experiments/league/run.py --full --noise --calls 640 --rates 3
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
from direction import as_row, snr_and_cosine
from entries import ENTRIES, FULL, HERE, OPTIONS, REPORT
from standings import best, noise_key, tuned

from sdsjax.cli.checks import resolve
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.files.atomic import read_rows
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.exact_run import IDENTITY
from sdsjax.studies.runner import Experiment, Option, Run
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.views import DISTANCE
from sdsjax.training.build import RunComponents, build
from sdsjax.training.encoding import bind
from sdsjax.types import Estimator, Rendering, View, keep_state

PROMPT = REPORT[0]
ORBITS = ((0.0, 15.0, DISTANCE), (60.0, 15.0, DISTANCE))  # as far apart as in exact.py
UNIFORM = TIMESTEPS["uniform"]()


def point_of(built: RunComponents, prompt: str = PROMPT) -> tuple[jax.Array, View]:
    """The z at which all are measured, and the first true view."""
    true = scoring.true_views(parse_caption(prompt)[0], ORBITS)
    camera = jax.tree.map(lambda v: v[0], scoring.orbit_cameras(ORBITS, scoring.SIZE))
    encode = jax.jit(lambda params, x: jax.vmap(bind(built.source, params).encode)(x))
    zs = encode(built.source.params, jnp.asarray(2 * true.rgb - 1))
    first = Rendering(*(jnp.asarray(layer[0]) for layer in true), aux={})
    return 0.7 * zs[0] + 0.3 * zs[1], View(camera, first)


def settled(
    estimator: Estimator, built: RunComponents, z, view, steps: int, batch: int
):
    """The estimator's state after `steps` steps of learning at this z and view."""
    prior_params, source = built.source.params, built.source
    state = estimator.init(
        bind(source, prior_params), jax.random.key(1), jax.eval_shape(lambda: z)
    )
    if estimator.learn is keep_state:
        return state
    zs, seen = jax.tree.map(
        lambda v: jnp.broadcast_to(v, (batch, *jnp.shape(v))), (z, view)
    )

    @jax.jit
    def step(prior_params, state, key):
        prior = bind(source, prior_params)
        key_t, key_estimate, key_learn = jax.random.split(key, 3)
        ts = UNIFORM(key_t, 0, 1, (batch,))
        found = jax.vmap(
            lambda k, z, t, view: estimator.estimate(prior, k, state, z, t, view)
        )(jax.random.split(key_estimate, batch), zs, ts, seen)
        return estimator.learn(prior, key_learn, state, zs, ts, seen, found, IDENTITY)

    for index in range(steps):
        state = step(prior_params, state, jax.random.fold_in(jax.random.key(4), index))
    return state


def noise_of(
    estimator: Estimator, built: RunComponents, z, view, state, samples: int
) -> dict[str, tuple[float, float]]:
    """The noise and the cosine of an estimator's gradient, each (value, error)."""
    reference = ESTIMATORS["mode_seeking_sds"](built.schedule)

    @jax.jit
    def measure(prior_params, state, key):
        prior = bind(built.source, prior_params)

        def gradient(estimator, state, key):
            key_t, key_noise = jax.random.split(key)
            t = UNIFORM(key_t, 0, 1, ())
            return estimator.estimate(prior, key_noise, state, z, t, view).grad

        return snr_and_cosine(
            lambda key: gradient(estimator, state, key),
            lambda key: gradient(reference, (), key),
            key, samples=samples, chunk=8,
        )  # fmt: skip

    return as_row(measure(built.source.params, state, jax.random.key(2)))


def chosen_settings(run: Run) -> dict[str, float]:
    """The settings that the league has chosen; ends the program where there is none."""
    plan, path = run.plan, run.results / "toybox-sd.jsonl"
    done = read_rows(path, "key")
    names = [name for name in plan.only if tuned(name, plan, done)]
    if not names:
        sys.exit(
            f"{path} has no tuned estimator at --calls "
            f"{plan.calls} --rates {' '.join(f'{r:g}' for r in plan.rates)}: give what "
            "the league was run with"
        )
    return {name: best(name, plan, done)[0] for name in names}


def jobs(run: Run):
    """Every tuned estimator with its chosen setting."""
    for name, setting in chosen_settings(run).items():
        key = noise_key(name, setting, run.plan)
        # of fewer samples: measured again, and the later row counts
        if key in run.rows and run.rows[key]["samples"] < run.plan.samples:
            del run.rows[key]
        yield key, (name, setting)


def worker(run: Run):
    enable_compile_cache()
    plan, built = run.plan, build(resolve("sds:toybox", {"prompt": PROMPT}))
    z, view = point_of(built)

    def perform(job: tuple[str, float]) -> dict:
        name, setting = job
        estimator = ENTRIES[name].make(built.schedule, setting)
        state = settled(
            estimator, built, z, view, plan.steps(ENTRIES[name]), plan.batch
        )
        row = {"prompt": PROMPT, "samples": plan.samples}
        row |= noise_of(estimator, built, z, view, state, plan.samples)
        print(name, row, flush=True)
        return row

    return perform


def experiment() -> Experiment:
    return Experiment(
        HERE, __doc__, FULL, FULL, jobs=jobs, worker=worker, flag="--noise",
        stem="toybox-noise", options={"samples": Option("of one gradient"), **OPTIONS},
    )  # fmt: skip
