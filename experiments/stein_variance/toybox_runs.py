"""The runs that are measured on toybox-sd, and what a step of them costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from toybox_figures import figures
from toybox_samples import PLAIN, SAMPLER, Sampling, steins

from sdsjax.cli.checks import resolve
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.stein import SteinState
from sdsjax.training.build import RunComponents, build
from sdsjax.training.encoding import bind
from sdsjax.training.train_step import INIT, init_state, make_train_step


def build_vsd(plan, prompt: str) -> RunComponents:
    """configs/vsd.py with both monocular networks."""
    given = {"prompt": prompt, "steps": plan.steps, "batch_size": plan.batch}
    given["prior"] = {"depth_folder": "toybox-dpt", "normals_folder": "toybox-normals"}
    return build(resolve("vsd:toybox", given))


def stepper(built: RunComponents, plan, estimator, optimizer) -> Callable:
    """The train step of an estimator and an optimiser on the run's components."""
    return make_train_step(
        built.source, built.representation, estimator, optimizer, SAMPLER,
        built.phases[-1].cameras, total=plan.steps,
    )  # fmt: skip


def advance(step, state, prior_params, key, steps: int):
    """Takes so many steps: (the state then, CPU seconds a step without the first)."""
    began = time.process_time()
    for index in range(steps):
        state, _ = step(state, prior_params, key)
        if index == 0:
            jax.block_until_ready(state)
            began = time.process_time()
    jax.block_until_ready(state)
    return state, (time.process_time() - began) / max(steps - 1, 1)


def distil(built: RunComponents, plan, estimator) -> tuple[list, float]:
    """Distils: the TrainState at the start and after each part, CPU seconds a step."""
    key, params = jax.random.key(0), built.source.params
    step = stepper(built, plan, estimator, built.optimizer)
    state = jax.jit(
        lambda params, key: init_state(
            built.source, built.representation, estimator, built.optimizer,
            built.phases[-1].cameras, params, key,
        )
    )(params, jax.random.fold_in(key, INIT))  # fmt: skip
    kept, seconds = [jax.device_get(state)], []
    for _ in range(plan.parts):
        state, cost = advance(step, state, params, key, plan.steps // plan.parts)
        kept.append(jax.device_get(state))
        seconds.append(cost)
    return kept, float(np.mean(seconds))


def learnt(state: SteinState) -> dict[str, np.ndarray]:
    """The mu of a run so far: its elements, and the one number that its sums give."""
    sums, mu = state.memory, np.asarray(state.mu)
    number = -sums.ac.sum() / sums.cc.sum() if sums.count else mu.mean()
    return {"element": mu, "number": number}


def costs(built: RunComponents, plan, state) -> dict[str, float]:
    """CPU time of one step's estimates and learning, over SDS's, by estimator.

    The median over rounds, each of which times all of them.
    """
    schedule, batch = built.schedule, plan.batch
    named = {
        "sds": ESTIMATORS["sds"](schedule, **PLAIN),
        **steins(schedule, fit="element"),
        "vsd": built.estimator,
        "ssd, M = 500": ESTIMATORS["ssd"](schedule, threshold=500),
    }
    keys = jax.random.split(jax.random.key(5), batch)
    sampling = Sampling(built, plan.samples, plan.chunk)

    def stepped(estimator):
        def views(prior_params):
            at = sampling.here(state, bind(built.source, prior_params))
            return jax.tree.map(
                lambda v: jnp.broadcast_to(v, (batch, *jnp.shape(v))), (at.z, at.view)
            )

        zs, seen = jax.jit(views)(built.source.params)

        def step(prior_params, own, keys):
            prior = bind(built.source, prior_params)
            ts = jax.vmap(lambda k: SAMPLER(k, 0, 1, ()))(keys)
            found = jax.vmap(
                lambda k, z, t, view: estimator.estimate(prior, k, own, z, t, view)
            )(keys, zs, ts, seen)
            return found.grad, estimator.learn(
                prior, keys[0], own, zs, ts, seen, found, None
            )

        prior = bind(built.source, built.source.params)
        own = estimator.init(prior, keys[0], jax.eval_shape(lambda: zs[0]))
        return jax.jit(step), own

    ready = {name: stepped(estimator) for name, estimator in named.items()}
    seconds = {name: [] for name in ready}
    for index in range(plan.rounds + 1):
        for name, (step, own) in ready.items():
            began = time.process_time()
            for _ in range(4):
                jax.block_until_ready(step(built.source.params, own, keys))
            if index:  # the first one compiles
                seconds[name].append(time.process_time() - began)
    base = np.array(seconds["sds"])
    return {n: float(np.median(np.array(s) / base)) for n, s in seconds.items()}


def onward(built: RunComponents, plan, sampling: Sampling, state, reference) -> dict:
    """VSD's figures after further steps of psi, theta as it is, by their number."""
    frozen = optax.set_to_zero()
    step = stepper(built, plan, built.estimator, frozen)
    still = jax.device_put(state._replace(opt_state=frozen.init(state.params)))
    rows, done = {}, 0
    for target in plan.onward:
        still, _ = advance(
            step, still, built.source.params, jax.random.key(9), target - done
        )
        done = target
        found = sampling.samples(jax.device_get(still))
        rows[target] = figures({"vsd": found.vsd, "sds": reference})["vsd"]
    return rows
