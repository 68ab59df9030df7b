"""Where the variance of a gradient comes from: view, timestep, both together, noise.

A crossed design: n_c views x n_t timesteps x n_e noises, G_cte = mu + a_c + b_t +
(ab)_ct + e_cte with independent random effects. With mean squares over all leaves,
E MS_noise = S_e, E MS_ct = S_e + n_e S_ct, E MS_c = S_e + n_e S_ct + n_t n_e S_c, and
likewise for t (Searle, Casella & McCulloch, "Variance Components", 1992, ch. 4), so
each component tr S is a difference of mean squares: unbiased, and negative at times;
it is shown as it is, never clipped.
Error bars: the design is repeated R times with views, times and noises of its own; the
spread of the R estimates gives the error, R - 1 degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diagnostics.gradient_stats import Measured, jackknife, mean_of_groups
from sdsjax.diagnostics.moments import merge_moments, moments_of, no_samples, widen
from sdsjax.math import tree_inner
from sdsjax.types import Array, PyTree


class Components(NamedTuple):
    """The components of a gradient's variance, and their sum.

    Each is the trace of a covariance, Measured; it may be negative.
    """

    view: Measured
    time: Measured
    interaction: Measured
    noise: Measured
    total: Measured


def components_from_squares(
    views: int, times: int, noises: int, by_view, by_time, by_cell, within
) -> dict[str, Array]:
    """ANOVA's estimates from sums of squares about the grand mean.

    by_view: sum over views of |mean_c - mean|^2, by_time and by_cell likewise, within:
    sum over all samples of |G - its cell's mean|^2.
    """
    cross = by_cell - times * by_view - views * by_time
    noise = within / (views * times * (noises - 1))
    both = noises * cross / ((views - 1) * (times - 1))
    ms_view = times * noises * by_view / (views - 1)
    ms_time = views * noises * by_time / (times - 1)
    parts = {
        "view": (ms_view - both) / (times * noises),
        "time": (ms_time - both) / (views * noises),
        "interaction": (both - noise) / noises,
        "noise": noise,
    }
    return parts | {"total": sum(parts.values(), start=jnp.zeros(()))}


def _cell(gradient, view, t, key, pilot, noises: int, chunk: int):
    """(mean - pilot, scatter) of `noises` gradients at one view and time."""
    width = min(chunk, noises)

    def fold(carried, index):
        place = index * width + jnp.arange(width)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(place)
        drawn = widen(jax.vmap(lambda k: gradient(view, t, k))(keys))
        apart = jax.tree.map(lambda leaf, p: leaf - p[None], drawn, pilot)
        return merge_moments(carried, moments_of(apart, place < noises)), None

    steps = jnp.arange(-(-noises // width))
    found, _ = jax.lax.scan(fold, no_samples(pilot), steps)
    return found.mean, found.scatter


def _add(total: PyTree, tree: PyTree, factor: float = 1.0) -> PyTree:
    return jax.tree.map(lambda a, b: a + factor * b, total, tree)


def one_design(
    draw_view: Callable[[Array], PyTree],
    draw_time: Callable[[Array], Array],
    gradient: Callable[[PyTree, Array, Array], PyTree],
    key: Array,
    *,
    views: int,
    times: int,
    noises: int,
    chunk: int = 64,
) -> dict[str, Array]:
    """The components of one crossed design; holds times + chunk + 4 gradients.

    Everything is measured from a pilot gradient: the components do not change, and
    float32 keeps its digits where the mean is large.
    """
    key_view, key_time, key_noise, key_pilot = jax.random.split(key, 4)
    view_keys = jax.random.split(key_view, views)
    ts = jax.vmap(draw_time)(jax.random.split(key_time, times))
    pilot = widen(gradient(draw_view(view_keys[0]), ts[0], key_pilot))
    nothing = jax.tree.map(jnp.zeros_like, pilot)
    zero = tree_inner(nothing, nothing)

    def over_views(carried, each):
        index, view = each[0], draw_view(each[1])

        def over_times(inner, each_time):
            (row, cells, within), (number, t) = inner, each_time
            place = jax.random.fold_in(key_noise, index * times + number)
            mean, scatter = _cell(gradient, view, t, place, pilot, noises, chunk)
            square = tree_inner(mean, mean)
            return (_add(row, mean), cells + square, within + scatter), mean

        (row, cells, within), means = jax.lax.scan(
            over_times, (nothing, zero, zero), (jnp.arange(times), ts)
        )
        row = jax.tree.map(lambda leaf: leaf / times, row)
        columns, total, rows, all_cells, all_within = carried
        return (
            _add(columns, means, 1.0 / views),
            _add(total, row, 1.0 / views),
            rows + tree_inner(row, row),
            all_cells + cells,
            all_within + within,
        ), None

    columns = jax.tree.map(lambda p: jnp.zeros((times, *p.shape), p.dtype), pilot)
    start = columns, nothing, zero, zero, zero
    (columns, mean, rows, cells, within), _ = jax.lax.scan(
        over_views, start, (jnp.arange(views), view_keys)
    )
    square = tree_inner(mean, mean)
    return components_from_squares(
        *(views, times, noises),
        rows - views * square,
        tree_inner(columns, columns) - times * square,
        cells - views * times * square,
        within,
    )


def variance_components(
    draw_view: Callable[[Array], PyTree],
    draw_time: Callable[[Array], Array],
    gradient: Callable[[PyTree, Array, Array], PyTree],
    key: Array,
    *,
    views: int = 4,
    times: int = 8,
    noises: int = 8,
    replicates: int = 8,
    chunk: int = 64,
) -> tuple[Components, dict[str, Measured]]:
    """Splits the variance of a gradient into its components, over repeated designs.

    Returns (components, the share of each in the total), over `replicates` designs.
    draw_view: key -> whatever a view needs (a `Linearised`, so that it is rendered
    once); draw_time: key -> t; gradient: (view, t, key) -> G, a tree. Traceable.
    Raises ValueError for fewer than two of anything.
    """
    sizes = {"views": views, "times": times, "noises": noises, "replicates": replicates}
    for name, size in sizes.items():
        if size < 2:
            raise ValueError(f"variance_components: {name} = {size} must be at least 2")
    found = jax.lax.map(
        lambda k: one_design(
            draw_view, draw_time, gradient, k,
            views=views, times=times, noises=noises, chunk=chunk,
        ),
        jax.random.split(key, replicates),
    )  # fmt: skip
    total = found["total"]

    def without_each(values):
        return (jnp.sum(values) - values) / (replicates - 1)

    shares = {
        name: jackknife(
            lambda part, whole: part / whole,
            (jnp.mean(values), jnp.mean(total)),
            (without_each(values), without_each(total)),
        )
        for name, values in found.items()
        if name != "total"
    }
    return Components(**{k: mean_of_groups(v) for k, v in found.items()}), shares
