"""How noisy and how biased each estimator of the league is on toybox-sd; see README.md.

G is one sample of an estimator's gradient in z, at the setting that the league chose: z
= .7 of the latent of a true view of PROMPT and .3 of the next one's, the prior told
the first one's camera; t uniform in [20, 980]. tr Cov / |E G|^2, and the cosine of E G
with E[e_y - eps] at w = sigma^2 (equal keys: equal noise). What learns (vsd's second
network, stein's mu) has first learnt at this z for as many steps as a run has. Of
sds_plus, the part in z: its part in x is no direction in z. One JSON line an estimator
in `results/toybox-noise.jsonl`; what is there is not measured again.

    python experiments/league/run.py --full --noise --calls 640 --rates 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from entries import ENTRIES, HERE, REPORT, Plan
from standings import best, noise_key, tuned

from sdsjax.cli.checks import resolve
from sdsjax.diagnostics.gradient_stats import bias_between, describe_groups
from sdsjax.diagnostics.moments import Draw, observe
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.files.atomic import read_rows
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.studies.exact_run import IDENTITY
from sdsjax.studies.run_rows import complete
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.views import DISTANCE
from sdsjax.training.build import RunComponents, build
from sdsjax.training.encoding import bind
from sdsjax.types import Estimator, Rendering, View, keep_state

PROMPT = REPORT[0]
ORBITS = ((0.0, 15.0, DISTANCE), (60.0, 15.0, DISTANCE))  # as far apart as in run.py
UNIFORM = TIMESTEPS["uniform"]()


def place(pieces: RunComponents, prompt: str = PROMPT) -> tuple[jax.Array, View]:
    """(z, the first true view)."""
    true = scoring.true_views(parse_caption(prompt)[0], ORBITS)
    camera = jax.tree.map(lambda v: v[0], scoring.orbit_cameras(ORBITS, scoring.SIZE))
    encode = jax.jit(lambda params, x: jax.vmap(bind(pieces.source, params).encode)(x))
    zs = encode(pieces.source.params, jnp.asarray(2 * true.rgb - 1))
    first = Rendering(*(jnp.asarray(layer[0]) for layer in true), aux={})
    return 0.7 * zs[0] + 0.3 * zs[1], View(camera, first)


def settled(
    estimator: Estimator, pieces: RunComponents, z, view, steps: int, batch: int
):
    """The estimator's state after `steps` steps of learning at this z and view."""
    prior_params, source = pieces.source.params, pieces.source
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
    estimator: Estimator, pieces: RunComponents, z, view, state, samples: int
) -> dict[str, tuple[float, float]]:
    """{"noise": tr Cov / |E G|^2, "cosine"}, each (value, error)."""
    reference = ESTIMATORS["mode_seeking_sds"](pieces.schedule)

    @jax.jit
    def measure(prior_params, state, key):
        prior = bind(pieces.source, prior_params)

        def sample(key):
            key_t, key_noise = jax.random.split(key)
            t = UNIFORM(key_t, 0, 1, ())
            own, other = (
                e.estimate(prior, key_noise, s, z, t, view).grad
                for e, s in ((estimator, state), (reference, ()))
            )
            return Draw({"own": own, "reference": other}, {})

        found, _ = observe(sample, key, samples=samples, chunk=8)
        bias = bias_between(found["own"], found["reference"])
        return describe_groups(found["own"]).snr, bias.cosine

    snr, cosine = jax.device_get(
        measure(pieces.source.params, state, jax.random.key(2))
    )
    value = float(snr.value)
    return {
        "noise": (1 / value, float(snr.error) / value**2),
        "cosine": (float(cosine.value), float(cosine.error)),
    }


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="on toybox-sd")
    parser.add_argument("--noise", action="store_true", help="this one")
    parser.add_argument(
        "--calls", type=int, default=4800, help="UNet evaluations of a run"
    )
    parser.add_argument("--batch", type=int, default=2, help="views a step of a run")
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    enable_compile_cache()
    plan = Plan(options.calls, options.batch, 1, 1, tuple(options.rates))
    done = read_rows(options.out / "toybox-sd.jsonl", "key")
    path = options.out / "toybox-noise.jsonl"
    chosen = {
        name: best(name, plan, done)[0]
        for name in options.only
        if tuned(name, plan, done)
    }
    if not chosen:
        sys.exit(
            f"{options.out / 'toybox-sd.jsonl'} has no tuned estimator at --calls "
            f"{plan.calls} --rates {' '.join(f'{r:g}' for r in plan.rates)}: give what "
            "the league was run with"
        )
    pieces = build(resolve("sds", {"prompt": PROMPT}))
    z, view = place(pieces)

    def one(name: str) -> dict:
        estimator = ENTRIES[name].make(pieces.schedule, chosen[name])
        steps = plan.steps(ENTRIES[name])
        state = settled(estimator, pieces, z, view, steps, plan.batch)
        row = {"key": noise_key(name, chosen[name], plan), "prompt": PROMPT}
        row |= {"samples": options.samples}
        row |= noise_of(estimator, pieces, z, view, state, options.samples)
        print(row, flush=True)
        return row

    rows = read_rows(path, "key")
    # of fewer samples: measured again, and the later row counts
    enough = {k: r for k, r in rows.items() if r["samples"] >= options.samples}
    jobs = [(noise_key(name, chosen[name], plan), name) for name in chosen]
    complete(jobs, one, path, enough)


if __name__ == "__main__":
    main()
