"""What SSD's figures 9 and 16-19 show, measured on one prior at one rendering.

Notation as in the package: z, eps, e = e_y, h = e_y - e_0, r, c*, by timestep t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diagnostics.noise_projection import linear_correlation, noise_projection
from sdsjax.diffusion import NoiseSchedule, add_noise
from sdsjax.math import inner
from sdsjax.priors import empirical, gaussian_mixture
from sdsjax.studies.exact_run import toybox_pictures
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.types import Prior

SCHEDULE = NoiseSchedule.scaled_linear()
PROMPT = "a red snowman"
OTHERS = ("a blue house", "a green car", "a yellow duck")
VIEWS = 8
SUBSPACE = 32  # dimensions in which the correlation is measured


class Plan(NamedTuple):
    """noises a timestep, timesteps, pixels a side, noises for toybox-sd."""

    noises: int
    times: tuple[int, ...]
    size: int
    network_noises: int


class Case(NamedTuple):
    """A prior at one z; noises and how many are evaluated at once."""

    prior: Prior
    z: jax.Array
    noises: int
    chunk: int


def exact_cases(plan: Plan) -> dict[str, Case]:
    """The exact priors: point masses, and variances of .02 and of .1 around each.

    z is an over-smooth rendering, .7 of one view and .3 of the next.
    """
    images = toybox_pictures((PROMPT, *OTHERS), views=VIEWS, size=plan.size)
    z = jnp.asarray(0.7 * images[0, 0] + 0.3 * images[0, 1])
    flat = images.reshape(-1, *images.shape[2:])
    kept = np.arange(len(flat)) < VIEWS
    weights = np.ones(len(flat))
    priors = {
        "points": empirical(SCHEDULE, flat, kept),
        "spread .02": gaussian_mixture(SCHEDULE, weights, flat, 0.02 * weights, kept),
        "spread .1": gaussian_mixture(SCHEDULE, weights, flat, 0.1 * weights, kept),
    }
    return {name: Case(prior, z, plan.noises, 64) for name, prior in priors.items()}


def toybox_case(plan: Plan) -> Case:
    """The trained prior, at the encoded mean of two true views."""
    from sdsjax.cli.checks import resolve
    from sdsjax.training.build import PRIORS

    config = resolve("ssd:image", {"prompt": PROMPT})
    source = PRIORS[config.prior.name](config)
    prior = source.bind(source.params)
    spec = parse_caption(PROMPT)[0]
    rgb = render_specs([spec, spec], [(0.0, 15.0), (30.0, 15.0)], size=64).mean(0)
    z = jax.jit(prior.encode)(jnp.asarray(2.0 * rgb - 1.0))
    return Case(prior, z, plan.network_noises, 8)


def subspace(size: int) -> jax.Array:
    """An orthonormal basis [size, k] of a random subspace, k = min(size, SUBSPACE)."""
    k = min(size, SUBSPACE)
    return jnp.linalg.qr(jax.random.normal(jax.random.key(3), (size, k)))[0]


def measure(case: Case, times, *, with_correlation: bool = True) -> list[dict]:
    """Measures one row a timestep: name -> (value, error)."""
    basis = subspace(case.z.size)

    def sample(t) -> Callable:
        def one(key):
            eps = jax.random.normal(key, case.z.shape)
            z_t = add_noise(SCHEDULE, case.z, eps, t)
            e = case.prior.noise(z_t, t, None, branches=("cond",)).cond
            return e.reshape(-1) @ basis, eps.reshape(-1) @ basis

        return one

    @jax.jit
    def at(t):
        key_a, key_b = jax.random.split(jax.random.key(11))
        sizes = {"samples": case.noises, "chunk": case.chunk}
        found = noise_projection(case.prior, case.z, t, key_a, **sizes)
        row = {k: v for k, v in found._asdict().items() if k != "left"}
        row |= {f"left_{k}": v for k, v in found.left.items()}
        if with_correlation:
            rho = linear_correlation(sample(t), key_b, **sizes)
            row["correlation"] = rho
        return {k: (v.value, v.error) for k, v in row.items()}

    rows = []
    for t in times:
        found = jax.device_get(at(jnp.int32(t)))
        rows.append({k: (float(a), float(b)) for k, (a, b) in found.items()})
    return rows


def fields(case: Case, times) -> np.ndarray:
    """One noise's directions [times, 4, h w c]: e_y, e_y - eps, e_y - r eps, E e_y.

    The last is the mean of 256 noises.
    """
    key = jax.random.key(5)

    @jax.jit
    def at(t):
        def noise(k):
            eps = jax.random.normal(k, case.z.shape)
            z_t = add_noise(SCHEDULE, case.z, eps, t)
            return eps, case.prior.noise(z_t, t, None, branches=("cond",)).cond

        eps, e = noise(key)
        many = jax.vmap(lambda k: noise(k)[1])(jax.random.split(key, 256))
        r = inner(e, eps) / inner(eps, eps)
        return jnp.stack([e, e - eps, e - r * eps, many.mean(0)])

    return np.stack([np.asarray(at(jnp.int32(t))) for t in times])
