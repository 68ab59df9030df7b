"""Variance, signal and bias of a random gradient G, each number with its error bar.

Notation: Gbar the mean of n samples; tr Cov(G) the total variance, unbiased (n - 1);
|E G|^2 estimated without bias as |Gbar|^2 - tr Cov / n, so it may come out negative;
signal-to-noise = |E G|^2 / tr Cov(G), of one sample; power = E |G|^2. G is any pytree:
a direction in z, or the same pulled back to theta.
Error bars: delete-one-group jackknife over g groups of samples (Efron & Stein 1981),
g - 1 degrees of freedom, Student's t for intervals. At E G = 0 the estimate of |E G|^2
is a degenerate U-statistic, where the jackknife errs to the safe side (up to sqrt 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diagnostics.moments import Draw, Groups, observe
from sdsjax.math import safe_divide, tree_inner
from sdsjax.types import Array, PyTree, View


class Measured(NamedTuple):
    """A number, its standard error, and the degrees of freedom behind that error."""

    value: Array
    error: Array
    dof: Array | int

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Returns the ends (low, high) of the confidence interval, outside jit."""
        # the quantile alone: scipy.stats takes half a second more to import
        from scipy.special import stdtrit

        dof = np.asarray(self.dof, np.float64)
        reach = stdtrit(dof, 0.5 + 0.5 * level) * self.error
        return self.value - reach, self.value + reach


class GradientStats(NamedTuple):
    """What is known of a random gradient G from n samples.

    count n; mean Gbar (a tree, None where it was not kept); variance tr Cov(G); signal
    |E G|^2; snr = signal / variance; power E|G|^2: the last four Measured.
    """

    count: Array
    mean: PyTree
    variance: Measured
    signal: Measured
    snr: Measured
    power: Measured


class Bias(NamedTuple):
    """How far the mean E A of a gradient is from a reference's E B; all Measured.

    square: |E A - E B|^2 (unbiased: may be negative); along: <E A - E B, E B> /
    |E B|^2, the relative bias along the reference; cosine: of the angle between E A and
    E B, 0 where either is lost in noise.
    """

    square: Measured
    along: Measured
    cosine: Measured


class Totals(NamedTuple):
    """Of a set of samples: their number, sum of |G - Gbar|^2, and |Gbar|^2."""

    count: Array
    scatter: Array
    square: Array


def jackknife(statistic: Callable[..., Array], whole, rest) -> Measured:
    """Measures a statistic with its delete-one-group error.

    whole: its arguments over all samples; rest: the same with a leading axis g, entry h
    without group h. The value is statistic(*whole), with g - 1 degrees of freedom.
    """
    value = statistic(*whole)
    each = jax.vmap(statistic)(*rest)
    groups = each.shape[0]
    spread = jnp.sum((each - jnp.mean(each)) ** 2)
    return Measured(value, jnp.sqrt((groups - 1) / groups * spread), groups - 1)


def mean_of_groups(values: Array) -> Measured:
    """The mean of independent estimates [g], its error from their spread."""
    groups = values.shape[0]
    error = jnp.std(values, ddof=1) / jnp.sqrt(groups)
    return Measured(jnp.mean(values), error, groups - 1)


def totals(groups: Groups) -> tuple[Totals, Totals]:
    """The totals of all samples, and without each group [g], from g scalars a group.

    With d_h = mean_h - Gbar, leaving h out moves the mean by -d_h / (g - 1).
    """
    g, size = groups.count.shape[0], groups.count[0]
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), groups.mean)
    apart = jax.tree.map(lambda leaf, middle: leaf - middle, groups.mean, mean)
    squares = jax.vmap(lambda d: tree_inner(d, d))(apart)
    along = jax.vmap(lambda d: tree_inner(d, mean))(apart)
    square, left = tree_inner(mean, mean), g - 1
    within = jnp.sum(groups.scatter) - groups.scatter
    between = jnp.sum(squares) - squares - squares / left
    whole = Totals(size * g, jnp.sum(groups.scatter) + size * jnp.sum(squares), square)
    moved = square - 2 * along / left + squares / left**2
    rest = Totals(jnp.full(g, size * left), within + size * between, moved)
    return whole, rest


def total_variance(count, scatter, square=None) -> Array:
    """The total variance tr Cov(G) = sum |G - Gbar|^2 / (n - 1)."""
    del square
    return scatter / (count - 1)


def signal(count, scatter, square) -> Array:
    """The signal |E G|^2, without bias: |Gbar|^2 - tr Cov / n."""
    return square - total_variance(count, scatter) / count


def signal_to_noise(count, scatter, square) -> Array:
    """The ratio |E G|^2 / tr Cov(G) of one sample.

    0 where there is no variance at all.
    """
    variance = total_variance(count, scatter)
    return safe_divide(signal(count, scatter, square), variance)


def power(count, scatter, square) -> Array:
    """E |G|^2, the mean over the samples."""
    return square + scatter / count


def describe_groups(groups: Groups) -> GradientStats:
    """All figures of one direction from its streamed moments."""
    whole, rest = totals(groups)
    return GradientStats(
        whole.count,
        jax.tree.map(lambda leaf: jnp.mean(leaf, 0), groups.mean),
        jackknife(total_variance, whole, rest),
        jackknife(signal, whole, rest),
        jackknife(signal_to_noise, whole, rest),
        jackknife(power, whole, rest),
    )


def gradient_stats(
    sample: Callable[[Array], PyTree],
    key: Array,
    *,
    samples: int,
    groups: int = 16,
    chunk: int = 64,
) -> GradientStats:
    """The figures of G = sample(key), a tree. Traceable; memory is chunk + groups G's.

    Raises ValueError unless samples is a multiple of groups > 1.
    """
    found, _ = observe(
        lambda k: Draw({"g": sample(k)}, {}),
        key,
        samples=samples,
        groups=groups,
        chunk=chunk,
    )
    return describe_groups(found["g"])


def variance_ratio(groups: Groups, reference: Groups) -> Measured:
    """The ratio tr Cov(A) / tr Cov(B) of two gradients' variances.

    Drawn from equal keys the two are paired, and the error of the ratio is far below
    that of either. Raises ValueError as `bias_between`.
    """
    check_groups(groups, reference)
    whole, rest = zip(totals(groups), totals(reference))
    return jackknife(
        lambda own, other: safe_divide(total_variance(*own), total_variance(*other)),
        whole,
        rest,
    )


def check_groups(groups: Groups, reference: Groups) -> None:
    """Raises ValueError for different numbers of groups."""
    mine, theirs = groups.count.shape[0], reference.count.shape[0]
    if mine != theirs:
        raise ValueError(
            f"{mine} groups against a reference of {theirs}: use the same number of "
            "groups for both"
        )


def bias_between(groups: Groups, reference: Groups) -> Bias:
    """The bias of the mean of `groups` against that of `reference`.

    Any number of samples each, as many groups; groups drawn from equal keys are paired,
    which narrows the error where the two are alike. Raises ValueError for different
    numbers of groups.
    """
    check_groups(groups, reference)
    apart = jax.tree.map(lambda a, b: a - b, groups.mean, reference.mean)
    ones = jnp.ones_like(groups.count)
    zeros = jnp.zeros_like(groups.scatter)
    together = jax.tree.map(lambda a, b: a + b, groups.mean, reference.mean)
    difference, both, theirs, mine = (
        totals(Groups(ones, tree, zeros))
        for tree in (apart, together, reference.mean, groups.mean)
    )

    # <E A, E B> = (|E A + E B|^2 - |E A - E B|^2) / 4, and every square unbiased.
    def product(plus, minus):
        return 0.25 * (signal(*plus) - signal(*minus))

    def along(plus, minus, other, own):
        del own
        return safe_divide(product(plus, minus), signal(*other)) - 1.0

    def cosine(plus, minus, other, own):
        squares = jnp.maximum(signal(*other), 0.0) * jnp.maximum(signal(*own), 0.0)
        return safe_divide(product(plus, minus), jnp.sqrt(squares))

    whole, rest = zip(both, difference, theirs, mine)
    return Bias(
        jackknife(signal, *difference),
        jackknife(along, whole, rest),
        jackknife(cosine, whole, rest),
    )


def by_time(
    sample: Callable[[Array, Array], PyTree],
    edges: Array,
    key: Array,
    *,
    samples: int,
    groups: int = 16,
    chunk: int = 64,
) -> GradientStats:
    """The figures of G = sample(key, t) by bin of t, each with a leading axis [bins].

    edges [bins + 1] int: bin b draws t uniformly from edges[b] <= t < edges[b + 1];
    `samples` draws a bin, with equal keys in every bin. No means are kept.
    """
    edges = jnp.asarray(edges, jnp.int32)

    def one(bounds):
        low, high = bounds

        def at_random_time(key):
            key_t, key_sample = jax.random.split(key)
            unit = jax.random.uniform(key_t)
            t = low + jnp.floor(unit * (high - low)).astype(jnp.int32)
            return sample(key_sample, jnp.clip(t, low, high - 1))

        found = gradient_stats(
            at_random_time, key, samples=samples, groups=groups, chunk=chunk
        )
        return found._replace(mean=None)

    return jax.lax.map(one, (edges[:-1], edges[1:]))


class Linearised(NamedTuple):
    """One view at the current theta, and the vjp of rendering and encoding it.

    z, x (None in latent space), the View, and pull: (g_z, g_x or None) -> g_theta.
    """

    z: Array
    x: Array | None
    view: View
    pull: Callable


def linearise(forward: Callable, theta: PyTree, camera) -> Linearised:
    """Renders a view and keeps the way back from its latents to the parameters.

    forward: (theta, camera) -> ((z, x or None), rendering); theta: floating leaves. z,
    x and the rendering carry no gradient: an estimate is a direction.
    """
    (z, x), pull, rendering = jax.vjp(
        lambda moved: forward(moved, camera), theta, has_aux=True
    )
    z, x, rendering = jax.lax.stop_gradient((z, x, rendering))
    return Linearised(z, x, View(camera, rendering), pull)


def both_gradients(estimator, prior, state, at: Linearised, t, key) -> dict:
    """The estimate's gradient in z and in theta, of one view and one noise.

    {"z": its direction, "theta": the same pulled back}; an image_grad is pulled back
    with it, as in training.
    """
    estimate = estimator.estimate(prior, key, state, at.z, t, at.view)
    g_z, g_x = estimate.grad.astype(at.z.dtype), None
    if at.x is not None:
        image = estimate.image_grad
        g_x = jnp.zeros_like(at.x) if image is None else image.astype(at.x.dtype)
    return {"z": g_z, "theta": at.pull((g_z, g_x))[0]}
