"""SSD's mixture of figure 7, and what moves on it; see README.md.

theta = x in R^d is moved by one estimator at a time; the prior is exact. Notation as in
the package: z = x, t in 0..999, M = threshold, e_y, h = e_y - e_0, r.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdsjax.diffusion import NoiseSchedule, add_noise, alpha_sigma
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators.ssd import projection_ratio, ssd_direction
from sdsjax.priors import gaussian_mixture

SCHEDULE = NoiseSchedule.scaled_linear()
WEIGHTS, VARIANCES = (0.2, 0.4, 0.4), (0.1, 0.05, 0.05)
MEANS = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 1.0]], np.float32)
CONDITIONAL = (False, True, True)
STARTS = np.array([[0.0, 0.0], [1.5, 1.0]], np.float32)


class Case(NamedTuple):
    """One way of running SSD.

    Its timesteps, dimension and lift, whether mode-seeking is rescaled to |h|, the
    reduction of the noise, and the optimiser.
    """

    name: str
    sampler: str = "uniform"
    d: int = 2
    how: str = "pad"
    rescale: bool = True
    reduction: str = "adaptive"
    optimizer: str = "adam"


def seek_last(key, step, total, shape, threshold):
    """Draws U[20, 980] for a third of the run, then U[20, M]: only mode-seeking."""
    high = jnp.where(step < total / 3, 980, jnp.maximum(threshold, 21))
    return 20 + jnp.floor(jax.random.uniform(key, shape) * (high - 19)).astype(int)


def time_sampler(name: str):
    """A sampler of timesteps by name: (key, step, total, shape, M) -> t."""
    if name == "seek_last":
        return seek_last
    sampler = {
        "uniform": TIMESTEPS["uniform"](),
        "two_phase": TIMESTEPS["two_phase"](),
        "annealed": TIMESTEPS["annealed_window"](t_end=50),
    }[name]
    return lambda key, step, total, shape, threshold: sampler(key, step, total, shape)


def lift(points, d: int, how: str):
    """Points [k 2] as [k d]: "pad" appends zeros, "tile" repeats both coordinates."""
    points = np.asarray(points, np.float32)
    if how == "tile":
        return np.tile(points, (1, d // 2))
    return np.pad(points, ((0, 0), (0, d - 2)))


def make_prior(d: int = 2, how: str = "pad"):
    """SSD's mixture in d dimensions; the prompt removes the first component."""
    means = lift(MEANS, d, how)
    return gaussian_mixture(SCHEDULE, WEIGHTS, means, VARIANCES, CONDITIONAL)


def direction(prior, term: str, case: Case, threshold, key, x, t):
    """The term's direction (w = 1) for one noise. threshold: M, may be traced."""
    eps = jax.random.normal(key, x.shape)
    e = prior.noise(add_noise(SCHEDULE, x, eps, t), t)
    h = e.cond - e.uncond
    if term == "mode_seeking":
        return e.cond
    if term == "mode_disengaging":
        return h
    if term == "sds":  # the paper's omega = 100 is s = 101
        return 100.0 * h + e.cond - eps
    r = projection_ratio(e.cond, eps)
    ratio = {"adaptive": r, "sds": 1.0, "none": 0.0}[case.reduction]
    return ssd_direction(e.cond, e.uncond, eps, t <= threshold, ratio, case.rescale)


def trajectory(term: str, case: Case, plan, start, threshold, key):
    """The path x [steps + 1, d] from one start, one noise a step."""
    prior, sampler = make_prior(case.d, case.how), time_sampler(case.sampler)
    rate = optax.exponential_decay(plan.rate, plan.steps, 0.1)
    make = {"adam": partial(optax.adam, b1=0.9, b2=0.99), "sgd": optax.sgd}
    optimizer = make[case.optimizer](rate)

    def step(carried, index):
        x, state = carried
        key_t, key_noise = jax.random.split(jax.random.fold_in(key, index))
        t = sampler(key_t, index, plan.steps, (), threshold)
        grad = direction(prior, term, case, threshold, key_noise, x, t)
        update, state = optimizer.update(grad, state)
        x = optax.apply_updates(x, update)
        return (x, state), x

    _, path = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(plan.steps))
    return jnp.concatenate([start[None], path])


def tail(path, share: float = 0.1):
    """The mean over the last tenth of a path."""
    return jnp.mean(path[-max(1, int(share * path.shape[0])) :], 0)


def score_end(end, modes):
    """Where a run ended: distance to the nearest mode, and the place between the two.

    In units where the two conditional means are 1 apart whatever the lift; at the
    places 0 and 1 it is on one.
    """
    scale = jnp.linalg.norm(modes[1] - modes[0])
    near = jnp.min(jnp.linalg.norm(modes - end, axis=-1)) / scale
    along = (end - modes[0]) @ (modes[1] - modes[0]) / scale**2
    return near, along


def merging_time(points: int = 2001) -> int:
    """The first t at which p(x_t; y) has one mode on the line between the two means."""
    along = np.linspace(-0.5, 1.5, points)
    for t in range(SCHEDULE.num_steps):
        alpha, sigma = (float(v) for v in alpha_sigma(SCHEDULE, t))
        total = alpha**2 * VARIANCES[1] + sigma**2
        density = sum(
            np.exp(-0.5 * alpha**2 * (along - m) ** 2 / total) for m in (0, 1)
        )
        inner = density[1:-1]
        if np.sum((inner > density[:-2]) & (inner >= density[2:])) == 1:
            return t
    raise ValueError("the two modes never merge on this schedule")


def log_density(x, alpha=1.0, sigma=0.0, conditional=False):
    """The log density of x [... 2] at noise level (alpha, sigma)."""
    weights = np.array(WEIGHTS) * (np.array(CONDITIONAL) if conditional else 1)
    total = alpha**2 * np.array(VARIANCES) + sigma**2
    squares = np.sum((x[..., None, :] - alpha * MEANS) ** 2, -1)
    parts = (
        weights / weights.sum() / (2 * np.pi * total) * np.exp(-0.5 * squares / total)
    )
    return np.log(np.maximum(parts.sum(-1), 1e-300))
