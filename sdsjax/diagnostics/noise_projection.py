"""How much of a noise prediction is the noise, at one fixed (x, t) over many noises.

c*, r, what subtracting leaves, and the linear correlation.

Notation: e = e_y(z_t), h = e_y - e_0, eps ~ N(0, I) of dimension d; S_ab covariances.
c* = tr S_{e,eps} / d minimises tr Cov(e - k eps) over constants k (SSD secs. 8-9,
eqs. 5 and 8); r = <e, eps> / |eps|^2 per sample (eq. 9); rho = tr S_{e,eps} /
tr(S_e^{1/2}), the linear correlation of random vectors (Puccetti 2022) for white eps.
On N(m, tau^2) per dimension e = k eps + const with k = c* = sigma^2 / (alpha^2 tau^2 +
sigma^2): subtracting eps lowers the variance if and only if k > 1/2.
Error bars: jackknife over groups (see gradient_stats); those of the extremes of r are
the standard deviation of the groups' own extremes, for which no jackknife exists.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diagnostics.gradient_stats import (
    Measured,
    jackknife,
    mean_of_groups,
    total_variance,
    totals,
)
from sdsjax.diagnostics.moments import Draw, group_size, observe
from sdsjax.diffusion import add_noise
from sdsjax.math import inner, norm, safe_divide
from sdsjax.types import Array, Prior, View

MAX_DIMENSION = 2048


class NoiseProjection(NamedTuple):
    """How a noise prediction projects on the noise; every field is Measured.

    c_star; r_mean, r_min, r_max; left: the total variance of e minus nothing ("none"),
    eps ("sds"), r eps ("adaptive"), c* eps ("optimal"); disengaging: of h; cond_norm,
    h_norm: mean |e_y|, |h|.
    """

    c_star: Measured
    r_mean: Measured
    r_min: Measured
    r_max: Measured
    left: dict[str, Measured]
    disengaging: Measured
    cond_norm: Measured
    h_norm: Measured


def optimal_ratio(cond, eps, reduced, dimension: int) -> Array:
    """The optimal ratio c*, from the totals of e, eps and e - eps.

    2 S_{e,eps} = S_e + S_eps - S_{e-eps}, the trace over d.
    """
    cross = 0.5 * (cond.scatter + eps.scatter - reduced.scatter)
    return cross / (cond.count - 1) / dimension


def optimally_reduced(cond, eps, reduced, dimension: int) -> Array:
    """The variance tr Cov(e - c* eps) that is left at the optimal ratio.

    From the same three totals as `optimal_ratio`.
    """
    c = optimal_ratio(cond, eps, reduced, dimension)
    cross = c * dimension * (cond.count - 1)
    return (cond.scatter - 2 * c * cross + c**2 * eps.scatter) / (cond.count - 1)


def extreme(values: Array, pick: Callable) -> Measured:
    """Measures the least or the greatest of values [g m]; pick: jnp.min or jnp.max.

    Its error is the spread of the groups' own.
    """
    each = pick(values, axis=1)
    return Measured(pick(values), jnp.std(each, ddof=1), values.shape[0] - 1)


def noise_projection(
    prior: Prior,
    z: Array,
    t: Array,
    key: Array,
    *,
    view: View | None = None,
    samples: int,
    groups: int = 16,
    chunk: int = 64,
) -> NoiseProjection:
    """Everything above at one (z, t, view); two network branches a sample. Traceable.

    Raises ValueError unless samples is a multiple of groups > 1.
    """

    def sample(key):
        eps = jax.random.normal(key, z.shape, z.dtype)
        e: Any = prior.noise(add_noise(prior.schedule, z, eps, t), t, view)
        r = safe_divide(inner(e.cond, eps), inner(eps, eps))
        h = e.cond - e.uncond
        directions = {
            "cond": e.cond,
            "eps": eps,
            "sds": e.cond - eps,
            "adaptive": e.cond - r * eps,
            "h": h,
        }
        return Draw(directions, {"r": r, "cond": norm(e.cond), "h": norm(h)})

    found, scalars = observe(sample, key, samples=samples, groups=groups, chunk=chunk)
    sums = {name: totals(moments) for name, moments in found.items()}
    whole, rest = zip(*(sums[name] for name in ("cond", "eps", "sds")))
    left = {
        name: jackknife(total_variance, *sums[source])
        for name, source in (("none", "cond"), ("sds", "sds"), ("adaptive", "adaptive"))
    }
    optimal = partial(optimally_reduced, dimension=z.size)
    left["optimal"] = jackknife(optimal, whole, rest)
    return NoiseProjection(
        c_star=jackknife(partial(optimal_ratio, dimension=z.size), whole, rest),
        r_mean=mean_of_groups(jnp.mean(scalars["r"], 1)),
        r_min=extreme(scalars["r"], jnp.min),
        r_max=extreme(scalars["r"], jnp.max),
        left=left,
        disengaging=jackknife(total_variance, *sums["h"]),
        cond_norm=mean_of_groups(jnp.mean(scalars["cond"], 1)),
        h_norm=mean_of_groups(jnp.mean(scalars["h"], 1)),
    )


class _Second(NamedTuple):
    """Second moments summed over samples, e measured from a pilot.

    count, sum e [d], sum e e^T [d d], sum <e, eps>, sum eps [d].
    """

    count: Array
    first: Array
    outer: Array
    product: Array
    noise: Array


def _correlation(second: _Second) -> Array:
    """rho from the sums: unbiased covariances, the root through eigenvalues."""
    n = second.count
    covariance = second.outer - jnp.outer(second.first, second.first) / n
    cross = second.product - inner(second.first, second.noise) / n
    roots = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(covariance / (n - 1)), 0.0))
    return safe_divide(cross / (n - 1), jnp.sum(roots))


def linear_correlation(
    sample: Callable[[Array], tuple[Array, Array]],
    key: Array,
    *,
    samples: int,
    groups: int = 16,
    chunk: int = 64,
) -> Measured:
    """Measures SSD's linear correlation rho of (e, eps) = sample(key), eps white.

    It holds groups + 2 matrices [d d]. With fewer than several d samples tr(S_e^{1/2})
    is far too small and rho too large (over 1): SSD's fig. 17 has 8192 samples in 16384
    dimensions. Raises ValueError for samples <= d, where it would mean nothing, or
    d > 2048.
    """
    size = group_size(samples, groups)
    e_spec, _ = jax.eval_shape(sample, key)
    d = e_spec.size
    if d > MAX_DIMENSION:
        raise ValueError(
            f"linear_correlation: {d} dimensions are more than {MAX_DIMENSION}: "
            "project e and eps onto fewer first"
        )
    if samples <= d:
        raise ValueError(
            f"linear_correlation: {samples} samples cannot show a covariance in {d} "
            f"dimensions: draw more than {d}, better {10 * d}"
        )
    pilot = sample(jax.random.fold_in(key, samples))[0].reshape(-1)
    width = min(chunk, size)

    def fold(group, carried, index):
        place = index * width + jnp.arange(width)
        numbers = group * size + jnp.minimum(place, size - 1)
        e, eps = jax.vmap(lambda i: sample(jax.random.fold_in(key, i)))(numbers)
        live = (place < size).astype(pilot.dtype)[:, None]
        e = (e.reshape(width, d) - pilot[None]) * live
        eps = eps.reshape(width, d) * live
        new = _Second(jnp.sum(live), e.sum(0), e.T @ e, inner(e, eps), eps.sum(0))
        return jax.tree.map(jnp.add, carried, new), None

    zero, line = jnp.zeros((), pilot.dtype), jnp.zeros(d, pilot.dtype)
    nothing = _Second(zero, line, jnp.zeros((d, d), pilot.dtype), zero, line)
    steps = jnp.arange(-(-size // width))
    each = jax.lax.map(
        lambda group: jax.lax.scan(lambda c, i: fold(group, c, i), nothing, steps)[0],
        jnp.arange(groups),
    )
    whole = jax.tree.map(lambda leaf: leaf.sum(0), each)
    rest = jax.tree.map(lambda leaf, total: total[None] - leaf, each, whole)
    value = _correlation(whole)
    # One at a time: a vmapped eigendecomposition would hold them all.
    others = jax.lax.map(_correlation, rest)
    spread = jnp.sum((others - jnp.mean(others)) ** 2)
    return Measured(value, jnp.sqrt((groups - 1) / groups * spread), groups - 1)
