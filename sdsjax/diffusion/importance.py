"""Importance sampling of t: more often where gradients are large, weighted back.

The best density for the mean of w(t) d over t is proportional to the root mean square
of |w d| at t. It is not known, so a running one is kept for each of BUCKETS ranges of
t, from the samples of earlier steps alone: this step's draws do not depend on this
step's noise, and weights 1 / p leave the mean as it was.
Everything happens in u, the sampler's own quantiles: [0, 1) is cut into CELLS equal
parts, a part is chosen with a probability of its own, and u falls evenly within it. The
weight, 1 / (CELLS probability), is exact whatever the running figures are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.math import safe_divide

TIMES = 1000  # diffusion times, 0..999
BUCKETS = 25
CELLS = 1000
DECAY = 0.99  # of the running sums, a step
EVENLY = 0.1  # the share that is drawn evenly: no weight exceeds 10


class TimeStatistics(NamedTuple):
    """Running sums over samples by bucket of t, forgotten at DECAY a step.

    squares: of |w d|^2; counts: of samples; float32 [BUCKETS].
    """

    squares: jax.Array
    counts: jax.Array


def no_statistics() -> TimeStatistics:
    """Returns the sums before the first step: every t is as likely as it was."""
    return TimeStatistics(jnp.zeros(BUCKETS), jnp.zeros(BUCKETS))


def _bucket(t: jax.Array) -> jax.Array:
    return t * BUCKETS // TIMES


def observed(statistics: TimeStatistics, t, norms) -> TimeStatistics:
    """Adds a step's samples: t [n] int32, norms [n] of their w(t) d."""
    chosen = jax.nn.one_hot(_bucket(t), BUCKETS, dtype=jnp.float32)
    return TimeStatistics(
        DECAY * statistics.squares + norms.astype(jnp.float32) ** 2 @ chosen,
        DECAY * statistics.counts + chosen.sum(0),
    )


def root_mean_squares(statistics: TimeStatistics) -> jax.Array:
    """Returns the rms of |w d| by bucket; of a bucket not seen, that of all samples.

    1 everywhere before the first sample, and where nothing moves.
    """
    squares, counts = statistics
    overall = safe_divide(squares.sum(), counts.sum())
    # a bucket long left behind has decayed to nothing
    seen = counts > 1e-6
    mean = jnp.where(seen, squares / jnp.where(seen, counts, 1.0), overall)
    return jnp.where(overall > 0, jnp.sqrt(mean), 1.0)


def prefer_large(
    statistics: TimeStatistics, quantile: Callable[[jax.Array], jax.Array], u
) -> tuple[jax.Array, jax.Array]:
    """Moves u to where gradients are large: returns (u, weights), u's shape.

    u: uniform in [0, 1), or strata of it; quantile: u -> t of this step. The mean of
    weight x f(quantile(u)) over new u is that of f(quantile(u)) over old ones.
    """
    centres = (jnp.arange(CELLS) + 0.5) / CELLS
    size = root_mean_squares(statistics)[_bucket(quantile(centres))]
    share = (1 - EVENLY) * size / jnp.sum(size) + EVENLY / CELLS
    upper = jnp.cumsum(share)
    place = u * upper[-1]
    cell = jnp.minimum(jnp.searchsorted(upper, place, side="right"), CELLS - 1)
    within = (place - (upper - share)[cell]) / share[cell]
    u = (cell + jnp.clip(within, 0.0, 1.0)) / CELLS
    return jnp.minimum(u, 1.0 - 2.0**-24), 1.0 / (CELLS * share[cell])
