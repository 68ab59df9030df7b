"""Variance and bias of the estimators on an exact prior, along a run of VSD.

Every estimator is measured at the same z with the same noise, so that differences are
paired; then VSD's second network with a mean that lags behind z or a variance that has
not shrunk to zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diagnostics.gradient_stats import (
    bias_between,
    describe_groups,
    variance_ratio,
)
from sdsjax.diagnostics.moments import Draw, observe
from sdsjax.diffusion import NoiseSchedule, add_noise, guide
from sdsjax.diffusion.timesteps import TIMESTEPS
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.stein_mu import optimal_mu
from sdsjax.priors import gaussian_mixture
from sdsjax.priors.gaussian_mixture import AffineAdapter
from sdsjax.studies.exact_run import distil, toybox_pictures

SCHEDULE = NoiseSchedule.scaled_linear()
CAPTIONS = ("a red snowman", "a blue house", "a green car", "a yellow duck")
SPREAD = 0.05
SCALE = 7.5
SAMPLER = TIMESTEPS["uniform"]()
PLAIN = {"guidance_scale": SCALE, "weighting": "sigma2"}


class Plan(NamedTuple):
    """How long the run is, and how much is measured along it.

    pixels a side, views a caption, steps, Adam's rate, parts of the run at whose ends
    is measured, samples there, VSD's learning rate.
    """

    size: int
    views: int
    steps: int
    rate: float
    parts: int
    samples: int
    adapter_rate: float


def square(prior, z_t, t, view):
    """A baseline phi that is not constant: -|z_t|^2 / d."""
    del prior, t, view
    return -jnp.mean(z_t**2)


ALONG = {
    "vsd": lambda plan: ESTIMATORS["vsd"](
        SCHEDULE, **PLAIN, adapter_lr=plan.adapter_rate
    ),
    "constant": lambda plan: ESTIMATORS["stein"](SCHEDULE, **PLAIN, fit="element"),
    "square": lambda plan: ESTIMATORS["stein"](
        SCHEDULE, **PLAIN, baseline=square, fit="element"
    ),
}


def make_prior(plan: Plan):
    pictures = toybox_pictures(CAPTIONS, views=plan.views, size=plan.size)
    flat = jnp.asarray(pictures.reshape(-1, *pictures.shape[2:]))
    weights = np.ones(len(flat))
    kept = np.arange(len(flat)) < plan.views
    return gaussian_mixture(SCHEDULE, weights, flat, SPREAD * weights, kept)


def runs(plan: Plan, prior):
    """The Trace of a run from grey under each estimator that learns, by name."""
    start = jnp.zeros((plan.size, plan.size, 3))

    def one(name):
        estimator = ALONG[name](plan)
        return jax.jit(
            lambda key: distil(
                prior, estimator, SAMPLER, start, key,
                steps=plan.steps, rate=plan.rate, batch=4, parts=plan.parts,
            )
        )(jax.random.key(0))  # fmt: skip

    return {name: one(name) for name in ALONG}


def estimates(prior, z, t, key, psi, mus, optimum):
    """w(t) times the direction by name, one (t, eps) for all of them (equal keys)."""
    eps = jax.random.normal(jax.random.split(key)[0], z.shape)
    z_t = add_noise(SCHEDULE, z, eps, t)
    e = prior.noise(z_t, t, None)
    sigma = SCHEDULE.sigmas[t]
    w, e_s = sigma**2, guide(e.cond, e.uncond, SCALE)
    phi, slope = jax.value_and_grad(lambda v: square(prior, v, t, None))(z_t)
    variate = eps * phi - sigma * slope
    ssd = ESTIMATORS["ssd"](SCHEDULE, threshold=500)
    directions = {
        "sds": w * (e_s - eps),
        "mu = 0": w * e_s,
        "constant, learned": w * (e_s - mus["constant"] * eps),
        "constant, optimum": w * (e_s - optimum["constant"] * eps),
        "square, mu = 1": w * (e_s + variate),
        "square, learned": w * (e_s + mus["square"] * variate),
        "square, optimum": w * (e_s + optimum["square"] * variate),
        "vsd": w * (e_s - prior.adapter.noise(psi, z_t, t, None)),
        "vsd, converged": w * (e_s - eps),
        "ssd, M = 500": ssd.estimate(prior, key, (), z, t, None).grad,
    }
    return directions, w * e_s, {"constant": -w * eps, "square": w * variate}


def measure(plan: Plan, prior):
    """Compiles (z, psi, mus) -> figures of each estimator, its bias against sds."""

    def at(z, psi, mus):
        key_fit, key = jax.random.split(jax.random.key(3))
        nothing = {"constant": jnp.zeros_like(z), "square": jnp.zeros_like(z)}

        def fit(k):
            key_t, key_noise = jax.random.split(k)
            t = SAMPLER(key_t, 0, 1, ())
            _, a, c = estimates(prior, z, t, key_noise, psi, mus, nothing)
            return {n: (a * v, v * v) for n, v in c.items()}

        # The optimum is fitted on noise of its own: it stays unbiased.
        many = jax.random.split(key_fit, plan.samples)
        sums = jax.tree.map(lambda v: v.sum(0), jax.vmap(fit)(many))
        optimum = {
            n: optimal_mu(ac, cc, jnp.float32(plan.samples))
            for n, (ac, cc) in sums.items()
        }

        def sample(k):
            key_t, key_noise = jax.random.split(k)
            t = SAMPLER(key_t, 0, 1, ())
            found, _, _ = estimates(prior, z, t, key_noise, psi, mus, optimum)
            return Draw(found, {})

        found, _ = observe(sample, key, samples=plan.samples, chunk=64)
        stats = {
            n: (s := describe_groups(g)).variance._asdict()
            | {"signal": s.signal.value, "signal_error": s.signal.error}
            for n, g in found.items()
        }
        sds = found["sds"]
        for n, g in found.items():
            ratio = variance_ratio(g, sds)
            stats[n] |= {"ratio": ratio.value, "ratio_error": ratio.error}
        return stats, {n: bias_between(g, sds) for n, g in found.items()}

    return jax.jit(at)


LAGS = (0.0, 0.05, 0.2)
VARIANCES = (0.0, 0.01, 0.05, 0.2, 1.0)


def plain_figures(measured) -> dict[str, dict[str, Any]]:
    """The figures by name as JSON: numbers, and the bias as [value, error]."""
    stats, biases = jax.device_get(measured)
    rows = {}
    for name, figures in stats.items():
        square = biases[name].square
        rows[name] = {figure: float(value) for figure, value in figures.items()}
        rows[name]["bias"] = [float(square.value), float(square.error)]
    return rows


def adapter_with(z, lag: float, variance: float, key) -> AffineAdapter:
    """VSD's psi with mean z + lag (rms, a fixed random direction) and this variance."""
    away = jax.random.normal(key, z.shape)
    return AffineAdapter(
        z + lag * away / jnp.sqrt(jnp.mean(away**2)),
        jnp.log(jnp.float32(max(variance, 1e-12))),
    )
