"""SteinDreamer's figures 1, 5, 6 and section 3 on toybox-sd; see README.md.

Gaussians are distilled under VSD, and under Stein with each baseline (mu learnt per
element). At points of the VSD run one view of it is drawn, and all estimators are
measured there with the same (t, eps). One JSON line a prompt in
`results/<size>-toybox.jsonl`: what is there is not run again.

Notation: a = w e_s, c = w (eps phi - sigma grad phi), a phi for each baseline; G = a +
mu c in z, d elements; J^T G the same in theta. J does not change between samples, so
J J^T is found once: |J^T G| = |R G| with R its symmetric root [d d].

    python experiments/stein_variance/run.py --toybox          # small: minutes
    python experiments/stein_variance/run.py --toybox --full   # README.md's tables
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from toybox_figures import crossed, directions, figures
from toybox_report import picture, table

from sdsjax.cameras import orbit_camera
from sdsjax.cli.checks import resolve
from sdsjax.diagnostics.gradient_stats import linearise
from sdsjax.diffusion import weight_function
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.common import draw_noise
from sdsjax.estimators.stein import SteinState
from sdsjax.files.atomic import read_rows
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.training.build import RunComponents, build
from sdsjax.training.encoding import bind, to_latent
from sdsjax.training.pullback import floating, merge
from sdsjax.training.train_step import INIT, init_state, make_train_step
from sdsjax.types import Estimator

HERE = Path(__file__).resolve().parent
SAMPLER = TIMESTEPS["uniform"]()
PLAIN = {"guidance_scale": 7.5, "weighting": "sigma2"}
BASELINES = ("constant", "depth", "normal")
ORBIT = (30.0, 15.0, 3.1)  # azimuth, elevation, distance of the view that is measured


class Plan(NamedTuple):
    """prompts; a run's steps, views a step and parts, at whose ends is measured;
    samples; psi's further steps at the last theta; estimates evaluated at once; rounds
    in which costs are timed."""

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


def steins(schedule, **settings) -> dict[str, Estimator]:
    make = partial(ESTIMATORS["stein"], schedule, **PLAIN, **settings)
    return {name: make(baseline=name) for name in BASELINES}


def pieces_of(plan: Plan, prompt: str) -> RunComponents:
    """configs/vsd.py with both monocular networks."""
    given = {"prompt": prompt, "steps": plan.steps, "batch_size": plan.batch}
    given["prior"] = {"depth_folder": "toybox-dpt", "normals_folder": "toybox-normals"}
    return build(resolve("vsd", given))


def stepper(pieces: RunComponents, plan: Plan, estimator, optimizer) -> Callable:
    return make_train_step(
        pieces.source, pieces.representation, estimator, optimizer, SAMPLER,
        pieces.phases[-1].cameras, total=plan.steps,
    )  # fmt: skip


def advance(step, state, prior_params, key, steps: int):
    """(state after `steps`, CPU seconds a step, the first, compiled, left out)."""
    began = time.process_time()
    for index in range(steps):
        state, _ = step(state, prior_params, key)
        if index == 0:
            jax.block_until_ready(state)
            began = time.process_time()
    jax.block_until_ready(state)
    return state, (time.process_time() - began) / max(steps - 1, 1)


def distil(pieces: RunComponents, plan: Plan, estimator) -> tuple[list, float]:
    """(the TrainState at the start and after each part, CPU seconds a step)."""
    key, params = jax.random.key(0), pieces.source.params
    step = stepper(pieces, plan, estimator, pieces.optimizer)
    state = jax.jit(
        lambda params, key: init_state(
            pieces.source, pieces.representation, estimator, pieces.optimizer,
            pieces.phases[-1].cameras, params, key,
        )
    )(params, jax.random.fold_in(key, INIT))  # fmt: skip
    kept, seconds = [jax.device_get(state)], []
    for _ in range(plan.parts):
        state, cost = advance(step, state, params, key, plan.steps // plan.parts)
        kept.append(jax.device_get(state))
        seconds.append(cost)
    return kept, float(np.mean(seconds))


def answered(prior, e):
    """The prior that gives the answer it has given, whatever z_t it is asked about:
    estimators with equal keys and one z_t share one evaluation."""

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        del z_t, t, view
        return e._replace(**{b: None for b in e._fields if b not in branches})

    return prior._replace(noise=noise)


class Terms(NamedTuple):
    """Of one (t, eps), or of n: t; a; c, by BASELINES; VSD's and SSD's gradients; SDS
    at the same t with another eps."""

    t: jax.Array
    a: jax.Array
    c: dict[str, jax.Array]
    vsd: jax.Array
    ssd: jax.Array
    again: jax.Array


def terms(schedule, vsd, prior, z, view, vsd_state, key) -> Terms:
    key_t, key_noise, key_again = jax.random.split(key, 3)
    t = SAMPLER(key_t, 0, 1, ())
    _, z_t = draw_noise(schedule, key_noise, z, t)
    known = answered(prior, prior.noise(z_t, t, view))
    w, one = weight_function(schedule, "sigma2")(t), SteinState(jnp.ones(()), ())
    found = {
        name: estimator.estimate(known, key_noise, one, z, t, view).aux
        for name, estimator in steins(schedule).items()
    }
    sds = ESTIMATORS["sds"](schedule, **PLAIN)
    ssd = ESTIMATORS["ssd"](schedule, threshold=500)
    return Terms(
        t,
        w * found["constant"]["guided"],
        {name: w * aux["control"] for name, aux in found.items()},
        vsd.estimate(known, key_noise, vsd_state, z, t, view).grad,
        ssd.estimate(known, key_noise, (), z, t, view).grad,
        sds.estimate(prior, key_again, (), z, t, view).grad,
    )


class Place:
    """What is done at a TrainState of the VSD run: its view on white, samples, R."""

    def __init__(self, pieces: RunComponents, plan: Plan):
        self.pieces, self.plan = pieces, plan
        # A chunk a call: inside a loop of XLA's the gradients of convolutions take six
        # times as long on a CPU.
        self.samples_of = jax.jit(self._samples)
        self.rows_of = jax.jit(self._rows)

    def here(self, state, prior):
        camera = orbit_camera(*ORBIT, fov=40.0, width=64, height=64)
        shown = self.pieces.representation

        def forward(theta, camera):
            params = merge(theta, state.params)
            drawn = shown.render(params, state.rep_state, camera, None)
            return to_latent(self.pieces.source, prior, shown.space, drawn.rgb), drawn

        return linearise(forward, floating(state.params), camera)

    def _samples(self, state, prior_params, keys) -> Terms:
        prior, pieces = bind(self.pieces.source, prior_params), self.pieces
        at = self.here(state, prior)
        return jax.vmap(
            lambda key: terms(
                pieces.schedule, pieces.estimator, prior, at.z, at.view,
                state.estimator_state, key,
            )
        )(keys)  # fmt: skip

    def _rows(self, state, prior_params, directions):
        # J^T of each direction in z, as one line of numbers
        at = self.here(state, bind(self.pieces.source, prior_params))

        def pull(g):
            leaves = jax.tree.leaves(at.pull((g, jnp.zeros_like(at.x)))[0])
            return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

        return jax.vmap(pull)(directions)

    def samples(self, state) -> Terms:
        """n of them, as numpy arrays."""
        plan, params = self.plan, self.pieces.source.params
        keys = jax.random.split(jax.random.key(3), plan.samples)
        found = [
            jax.device_get(self.samples_of(state, params, keys[i : i + plan.chunk]))
            for i in range(0, plan.samples, plan.chunk)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def root(self, state, shape) -> np.ndarray:
        """R [d d], d elements of z's shape."""
        d, params = int(np.prod(shape)), self.pieces.source.params
        one, chunk = np.eye(d, dtype=np.float32).reshape(d, *shape), self.plan.chunk
        rows = np.concatenate(
            [
                np.asarray(self.rows_of(state, params, one[i : i + chunk]))
                for i in range(0, d, chunk)
            ]
        )
        values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
        return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def learnt(state: SteinState) -> dict[str, np.ndarray]:
    """mu of a run so far: its elements, and the one number that its sums give."""
    sums, mu = state.memory, np.asarray(state.mu)
    number = -sums.ac.sum() / sums.cc.sum() if sums.count else mu.mean()
    return {"element": mu, "number": number}


def costs(pieces: RunComponents, plan: Plan, state) -> dict[str, float]:
    """name -> CPU time of one step's estimates and of learning from them, over SDS's:
    the median over rounds, each of which times all of them."""
    schedule, batch = pieces.schedule, plan.batch
    named = {
        "sds": ESTIMATORS["sds"](schedule, **PLAIN),
        **steins(schedule, fit="element"),
        "vsd": pieces.estimator,
        "ssd, M = 500": ESTIMATORS["ssd"](schedule, threshold=500),
    }
    keys = jax.random.split(jax.random.key(5), batch)
    place = Place(pieces, plan)

    def stepped(estimator):
        def views(prior_params):
            at = place.here(state, bind(pieces.source, prior_params))
            return jax.tree.map(
                lambda v: jnp.broadcast_to(v, (batch, *jnp.shape(v))), (at.z, at.view)
            )

        zs, seen = jax.jit(views)(pieces.source.params)

        def step(prior_params, own, keys):
            prior = bind(pieces.source, prior_params)
            ts = jax.vmap(lambda k: SAMPLER(k, 0, 1, ()))(keys)
            found = jax.vmap(
                lambda k, z, t, view: estimator.estimate(prior, k, own, z, t, view)
            )(keys, zs, ts, seen)
            return found.grad, estimator.learn(
                prior, keys[0], own, zs, ts, seen, found, None
            )

        prior = bind(pieces.source, pieces.source.params)
        own = estimator.init(prior, keys[0], jax.eval_shape(lambda: zs[0]))
        return jax.jit(step), own

    ready = {name: stepped(estimator) for name, estimator in named.items()}
    seconds = {name: [] for name in ready}
    for index in range(plan.rounds + 1):
        for name, (step, own) in ready.items():
            began = time.process_time()
            for _ in range(4):
                jax.block_until_ready(step(pieces.source.params, own, keys))
            if index:  # the first one compiles
                seconds[name].append(time.process_time() - began)
    base = np.array(seconds["sds"])
    return {n: float(np.median(np.array(s) / base)) for n, s in seconds.items()}


def onward(pieces: RunComponents, plan: Plan, place: Place, state, reference) -> dict:
    """steps -> VSD's figures after so many more of psi, theta as it is."""
    frozen = optax.set_to_zero()
    step = stepper(pieces, plan, pieces.estimator, frozen)
    still = jax.device_put(state._replace(opt_state=frozen.init(state.params)))
    rows, done = {}, 0
    for target in plan.onward:
        still, _ = advance(
            step, still, pieces.source.params, jax.random.key(9), target - done
        )
        done = target
        found = place.samples(jax.device_get(still))
        rows[target] = figures({"vsd": found.vsd, "sds": reference})["vsd"]
    return rows


def along(pieces: RunComponents, plan: Plan, place: Place):
    """(the run's points, measured; CPU seconds a step by estimator; VSD's last state;
    SDS's samples there)."""
    print("  vsd", flush=True)
    trace, vsd_seconds = distil(pieces, plan, pieces.estimator)
    seconds, states = {"vsd": vsd_seconds}, {}
    for name, estimator in steins(pieces.schedule, fit="element").items():
        print(f"  stein, {name}", flush=True)
        kept, seconds[name] = distil(pieces, plan, estimator)
        states[name] = [state.estimator_state for state in kept]
    points, named = [], {}
    for index, state in enumerate(trace):
        print(f"  point {index}", flush=True)
        found = place.samples(state)
        mus = {name: learnt(states[name][index]) for name in BASELINES}
        best = crossed(found)
        named = directions(found, mus, best)
        points.append(
            {
                "step": plan.steps * index // plan.parts,
                "z": figures(named),
                "theta": figures(named, place.root(state, found.a.shape[1:])),
                "mu": {n: float(mus[n]["number"]) for n in BASELINES},
                "best": {n: float(np.mean(best[n])) for n in BASELINES},
            }
        )
    return points, seconds, trace[-1], named["sds"]


def perform(plan: Plan, prompt: str) -> dict:
    """Everything that is measured on one prompt."""
    print(prompt, flush=True)
    pieces = pieces_of(plan, prompt)
    place = Place(pieces, plan)
    points, seconds, last, sds = along(pieces, plan, place)
    return {
        "prompt": prompt,
        "points": points,
        "seconds": seconds,
        "onward": onward(pieces, plan, place, last, sds),
        "costs": costs(pieces, plan, last),
    }


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toybox", action="store_true", help="this one")
    parser.add_argument("--full", action="store_true", help="README.md's tables")
    parser.add_argument("--prompts", nargs="+", help="instead of a red snowman")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    plan, size = (FULL, "full") if options.full else (SMALL, "small")
    path = options.out / f"{size}-toybox.jsonl"
    if not options.only_report:
        enable_compile_cache()
        options.out.mkdir(parents=True, exist_ok=True)
        for prompt in options.prompts or plan.prompts:
            if prompt in read_rows(path, "prompt"):
                continue
            row = perform(plan, prompt)
            with path.open("a") as stream:
                stream.write("\n" + json.dumps(row) + "\n")
    rows = list(read_rows(path, "prompt").values())
    if not rows:
        return
    text = table(plan, rows)
    (options.out / f"{size}-toybox.md").write_text(text)
    picture(rows, options.out / f"{size}-toybox.png")
    print(text)


if __name__ == "__main__":
    main()
