"""Streaming moments of random directions: their mean and scatter, never all at once.

Notation: G a random direction, any pytree (in z, or in theta); |G|^2 and <., .> sum
over every leaf. n samples lie in g equal groups of m = n / g: sample i of a group is a
function of (key, group, i) alone, so neither the chunk size nor the order of evaluation
changes what is drawn. At any time `chunk` directions and one mean per group are held.
Merging: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances", 1979.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.math import tree_inner
from sdsjax.types import Array, PyTree


class Draw(NamedTuple):
    """One sample. directions: name -> G; scalars: name -> a number to keep as it is."""

    directions: dict[str, PyTree]
    scalars: dict[str, Array]


class Groups(NamedTuple):
    """The moments of one direction, group by group.

    count [g]; mean: tree [g ...]; scatter [g], the sum of |G - mean|^2 within each
    group.
    """

    count: Array
    mean: PyTree
    scatter: Array


def widen(tree: PyTree) -> PyTree:
    """Leaves in float32 at least: sums of bfloat16 lose every digit."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree
    )


def no_samples(template: PyTree) -> Groups:
    """The moments of nothing; template: arrays or their shapes, without group axis."""
    mean = jax.tree.map(
        lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)), template
    )
    return Groups(jnp.zeros((), jnp.float32), mean, tree_inner(mean, mean))


def moments_of(samples: PyTree, live: Array) -> Groups:
    """The moments of one chunk. samples: tree [c ...]; live [c]: those that count."""
    weight = live.astype(jnp.float32)
    count = jnp.sum(weight)
    share = weight / jnp.maximum(count, 1.0)
    samples = widen(samples)
    mean = jax.tree.map(
        lambda leaf: jnp.tensordot(share.astype(leaf.dtype), leaf, axes=1), samples
    )
    apart = jax.tree.map(lambda leaf, middle: leaf - middle[None], samples, mean)
    scatter = jax.vmap(lambda each: tree_inner(each, each))(apart)
    return Groups(count, mean, jnp.sum(weight * scatter))


def merge_moments(a: Groups, b: Groups) -> Groups:
    """The moments of both sets of samples (either may be empty); no group axis."""
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    apart = jax.tree.map(lambda x, y: y - x, a.mean, b.mean)
    mean = jax.tree.map(lambda x, d: x + share.astype(d.dtype) * d, a.mean, apart)
    between = a.count * share * tree_inner(apart, apart)
    return Groups(count, mean, a.scatter + b.scatter + between)


def group_size(samples: int, groups: int) -> int:
    """Counts the samples of a group, m = samples / groups.

    Raises ValueError unless m is a whole number and there are two groups or more.
    """
    if groups < 2 or samples < groups or samples % groups:
        raise ValueError(
            f"{samples} samples in {groups} groups: error bars need at least 2 groups, "
            "and the number of samples must be a multiple of theirs"
        )
    return samples // groups


def observe(
    sample: Callable[[Array], Draw],
    key: Array,
    *,
    samples: int,
    groups: int = 16,
    chunk: int = 64,
) -> tuple[dict[str, Groups], dict[str, Array]]:
    """Draw `samples` times: the moments of every direction, and every scalar [g m].

    chunk: directions evaluated (vmapped) at once. Traceable. Raises ValueError where
    the groups do not fit.
    """
    size = group_size(samples, groups)
    width = min(chunk, size)
    chunks = -(-size // width)
    template = jax.eval_shape(sample, key)

    def fold(group, carried, index):
        place = index * width + jnp.arange(width)
        numbers = group * size + jnp.minimum(place, size - 1)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)
        draws = jax.vmap(sample)(keys)
        new = {
            name: merge_moments(old, moments_of(draws.directions[name], place < size))
            for name, old in carried.items()
        }
        return new, draws.scalars

    def one_group(group):
        start = {k: no_samples(v) for k, v in template.directions.items()}
        moments, scalars = jax.lax.scan(partial(fold, group), start, jnp.arange(chunks))
        flat = jax.tree.map(lambda v: v.reshape(chunks * width)[:size], scalars)
        return moments, flat

    # Groups smaller than a chunk are evaluated several at once; a divisor of them, so
    # that no remainder is compiled a second time.
    together = max(
        k
        for k in range(1, groups + 1)
        if groups % k == 0 and (k == 1 or k * size <= chunk)
    )
    return jax.lax.map(one_group, jnp.arange(groups), batch_size=together)
