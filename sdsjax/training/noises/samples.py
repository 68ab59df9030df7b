"""The noises of a step: k samples (t, eps) for each rendering, and their mean.

Rendering and encoding do not depend on the noise; with k samples a rendering they are
paid for once, and the mean of the k directions is pulled back once. All that is drawn
is unbiased: each sample has the sampler's t, or one drawn otherwise and weighted back.

Notation: m renderings that the prior takes as samples (groups.py), k noises each, p
diffusion times each (k, or k / 2 where a pair shares one). Arrays of samples are [m k],
the k of a rendering in a row, so that a mesh keeps them with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diffusion.importance import no_statistics, observed, prefer_large
from sdsjax.diffusion.mirrored_keys import mirrored_pairs
from sdsjax.math import norm
from sdsjax.types import Array, Estimate, Linear, PyTree


class NoiseSamples(NamedTuple):
    """How a step's noises are drawn.

    per_view: k; stratified: one t in each of the p equal parts of the sampler's
    distribution, over the m renderings where p = 1; antithetic: eps and -eps in pairs
    that share t; common_time: the same p times for all renderings; importance: t more
    often where gradients are large (sdsjax/diffusion/importance.py). `check_noise` says
    what does not go together.
    """

    per_view: int = 1
    stratified: bool = False
    antithetic: bool = False
    common_time: bool = False
    importance: bool = False

    @property
    def times(self) -> int:
        """Counts the diffusion times of a rendering, p."""
        return self.per_view // 2 if self.antithetic else self.per_view


class DrawnNoise(NamedTuple):
    """The noises of a step's samples, all [m k].

    keys: of the estimates; t: int32; weights: of the directions, None where all are 1.
    """

    keys: Array
    t: Array
    weights: Array | None


def check_noise(noise: NoiseSamples) -> None:
    """Raises ValueError, in one line, for options that do not go together."""
    k = noise.per_view
    if noise.antithetic and k % 2:
        raise ValueError(
            f"noise.antithetic draws noises in pairs, and samples_per_view = {k} is "
            f"odd: choose {k + 1}"
        )
    if noise.stratified and noise.common_time and noise.times == 1:
        need = 4 if noise.antithetic else 2
        raise ValueError(
            "noise.stratified spreads several t, and noise.common_time leaves one a "
            f"step: set samples_per_view to {need} or more, or one of the two to false"
        )


def first_statistics(noise: NoiseSamples) -> Any:
    """Returns what importance sampling begins with; () where it is off."""
    return no_statistics() if noise.importance else ()


def _units(noise: NoiseSamples, key: Array, rows: int) -> Array:
    # u [rows p] in [0, 1), each uniform by itself
    p, (key_u, key_order) = noise.times, jax.random.split(key)
    u = jax.random.uniform(key_u, (rows, p))
    if not noise.stratified:
        return u
    if p > 1:
        u = (jnp.arange(p) + u) / p
    else:
        # in random order: a rendering has no stratum of its own
        order = jax.random.permutation(key_order, rows)
        u = (order[:, None] + u) / rows
    return jnp.minimum(u, 1.0 - 2.0**-24)


def _quantile(sampler):
    if not hasattr(sampler, "quantile"):
        raise ValueError(
            "stratified and importance sampling of t need the sampler's quantiles: use "
            "one of sdsjax.diffusion.timesteps, or give yours a `quantile`"
        )
    return sampler.quantile


def draw_noises(
    noise: NoiseSamples, sampler, key_t, key_estimate, step, total, m, statistics
) -> DrawnNoise:
    """Draws the noises of a step's m renderings.

    sampler: of sdsjax.diffusion.timesteps; statistics: `first_statistics` or what
    `noted` made of them. Raises ValueError for a sampler without quantiles where they
    are needed.
    """
    rows, p, weights = 1 if noise.common_time else m, noise.times, None
    if noise.stratified or noise.importance:
        quantile = _quantile(sampler)
        u = _units(noise, key_t, rows)
        if noise.importance:
            u, weights = prefer_large(statistics, lambda u: quantile(u, step, total), u)
        t = quantile(u, step, total)
    else:
        t = sampler(key_t, step, total, (rows * p,)).reshape(rows, p)

    def of_samples(values):
        values = jnp.broadcast_to(values, (m, p)).reshape(-1)
        return jnp.repeat(values, 2) if noise.antithetic else values

    keys = jax.random.split(key_estimate, m * p)
    return DrawnNoise(
        mirrored_pairs(keys) if noise.antithetic else keys,
        of_samples(t),
        None if weights is None else of_samples(weights),
    )


def noted(noise: NoiseSamples, statistics, drawn: DrawnNoise, estimates: Estimate):
    """Adds a step's gradients to the statistics of importance sampling."""
    if not noise.importance:
        return statistics
    return observed(statistics, drawn.t, jax.vmap(norm)(estimates.grad))


def repeated(tree: PyTree, k: int) -> PyTree:
    """Arrays [m ...] of renderings as those of their samples [m k ...]."""
    if k == 1:
        return tree
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, k, axis=0), tree)


def mean_of_samples(values: Array, k: int, weights: Array | None = None) -> Array:
    """The mean over the k samples of each rendering: [m k ...] -> [m ...]."""
    if weights is not None:
        shape = (-1, *(1,) * (values.ndim - 1))
        values = values * weights.astype(values.dtype).reshape(shape)
    if k == 1:
        return values
    return jnp.mean(values.reshape(-1, k, *values.shape[1:]), axis=1)


def linear_of_samples(linear: Linear, k: int) -> Linear:
    """The renderer's linear maps between samples [m k ...] and theta.

    What is pulled back is the mean of a rendering's samples, as in the step; what is
    pushed forward moves each of them alike.
    """
    if k == 1:
        return linear
    return Linear(
        lambda g_z: linear.pullback(mean_of_samples(g_z, k)),
        lambda d_theta: repeated(linear.pushforward(d_theta), k),
    )
