"""What is said of n samples of every estimator at one place; see toybox.py.

a [n ...], c {baseline: [n ...]}: G = a + mu c. Samples lie in GROUPS equal groups, in
order; mu's optimum is fitted on the odd groups for the even ones, and the other way
round, so that no sample is measured with a mu that has seen its noise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diagnostics.gradient_stats import (
    bias_between,
    describe_groups,
    variance_ratio,
)
from sdsjax.diagnostics.moments import Groups, group_size, moments_of
from sdsjax.estimators.stein_mu import optimal_mu

GROUPS = 16
BINS = 10  # of t, each with a mu of its own
RIDGE = 1e-4  # of the trace: two baselines may be one, where nothing is opaque yet


def other_half(fit, count: int) -> np.ndarray:
    """fit: samples [m] -> mu; -> [n ...], each sample's mu from the half without it."""
    odd = np.arange(count) // group_size(count, GROUPS) % 2 == 1
    on_even, on_odd = fit(np.flatnonzero(~odd)), fit(np.flatnonzero(odd))
    return np.stack([on_even if flag else on_odd for flag in odd])


def least(a, c) -> np.ndarray:
    """The mu [...] of each element that minimises the mean of (a + mu c)^2."""
    sums = (np.sum(a * c, 0), np.sum(c * c, 0), np.float32(len(a)))
    return np.asarray(optimal_mu(*map(jnp.asarray, sums)))


def least_number(a, c) -> float:
    return float(-np.sum(a * c) / np.sum(c * c))


def least_by_time(a, c, t) -> np.ndarray:
    """One number for each bin of t [BINS]; the pooled one where no sample fell."""
    bins, whole = t * BINS // 1000, least_number(a, c)
    return np.array(
        [
            least_number(a[bins == b], c[bins == b]) if np.any(bins == b) else whole
            for b in range(BINS)
        ]
    )


def least_together(a, c) -> np.ndarray:
    """mu [k ...] of k baselines at once, c [k m ...]."""
    matrix = np.einsum("im...,jm...->...ij", c, c)
    vector = np.einsum("im...,m...->...i", c, a)[..., None]
    trace = np.trace(matrix, axis1=-2, axis2=-1)[..., None, None]
    matrix = matrix + (RIDGE * trace + (trace <= 0)) * np.eye(len(c))
    return -np.moveaxis(np.linalg.solve(matrix, vector)[..., 0], -1, 0)


def crossed(found) -> dict[str, np.ndarray]:
    """Every sample's optima [n ...]: by baseline, "by t", "together" [n k ...]."""
    a, n, first = found.a, len(found.a), next(iter(found.c.values()))
    every = np.stack(list(found.c.values()))
    best = {
        name: other_half(lambda i, c=c: least(a[i], c[i]), n)
        for name, c in found.c.items()
    }
    tables = other_half(lambda i: least_by_time(a[i], first[i], found.t[i]), n)
    best["by t"] = tables[np.arange(n), found.t * BINS // 1000]
    best["together"] = other_half(lambda i: least_together(a[i], every[:, i]), n)
    return best


def directions(found, mus: dict, best: dict) -> dict[str, np.ndarray]:
    """name -> G [n ...]. mus: baseline -> {"element", "number"}, as learnt."""
    a, every = found.a, found.c
    first = next(iter(every))
    sds = a + every[first]
    named = {"sds": sds, "mu = 0": a}
    for name, c in every.items():
        if name != first:  # there it is SDS
            named[f"{name}, mu = 1"] = a + c
        for kind in ("number", "element"):
            named[f"{name}, learnt {kind}"] = a + mus[name][kind] * c
        named[f"{name}, optimum"] = a + best[name] * c
    by_t = best["by t"].reshape(-1, *(1,) * (a.ndim - 1))
    named[f"{first}, optimum by t"] = a + by_t * every[first]
    together = np.moveaxis(best["together"], 1, 0)
    named["all three, optimum"] = a + sum(
        mu * c for mu, c in zip(together, every.values())
    )
    named |= {"vsd": found.vsd, "ssd, M = 500": found.ssd}
    # Two noises at one t: their difference knows nothing of t.
    return named | {"sds, its noise alone": (sds - found.again) / np.sqrt(2)}


@jax.jit
def grouped(values) -> Groups:
    """The moments of samples [n d], n a multiple of GROUPS."""
    parts = values.reshape(GROUPS, -1, values.shape[-1])
    return jax.vmap(lambda each: moments_of(each, jnp.ones(len(each))))(parts)


@jax.jit
def _figures(groups: Groups, sds: Groups):
    own, bias = describe_groups(groups), bias_between(groups, sds)
    return {
        "variance": own.variance,
        "signal": own.signal,
        "snr": own.snr,
        "ratio": variance_ratio(groups, sds),
        "bias": bias.square,
        "cosine": bias.cosine,
    }


def figures(named: dict, root: np.ndarray | None = None) -> dict[str, dict]:
    """The figures of G, or of R G, by name: figure -> [value, error].

    ratio, bias and cosine are against "sds", paired. Raises ValueError unless n is a
    multiple of GROUPS.
    """

    def moments(values):
        group_size(len(values), GROUPS)
        flat = values.reshape(len(values), -1).astype(np.float32)
        return grouped(flat if root is None else flat @ root.astype(np.float32))

    sds = moments(named["sds"])
    rows = {name: _figures(moments(values), sds) for name, values in named.items()}
    return {
        name: {k: [float(v.value), float(v.error)] for k, v in row.items()}
        for name, row in jax.device_get(rows).items()
    }
