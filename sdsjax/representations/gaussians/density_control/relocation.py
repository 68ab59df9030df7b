"""Puts n Gaussians in the place of one, so that the picture stays as it was.

Notation: o the opacity of one Gaussian, s its scales; n the number that shares its
place; o', s' what each of them gets (3DGS-MCMC, arXiv 2404.09591, eq. 9):

    o' = 1 - (1 - o)^(1/n),     s' = s o / D,
    D = sum_{i=1..n} sum_{k<i} C(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1).

Summing over i first leaves D = sum_{j=1..n} C(n, j) (-1)^(j-1) o'^j / sqrt(j), whose
terms cancel in float32. With 1 / sqrt(j) = 2 / sqrt(pi) int_0^inf exp(-j u^2) du it is

    D = 2 / sqrt(pi) int_0^inf 1 - (1 - o' exp(-u^2))^n du:

what n stacked Gaussians cover along a line through their centre. The integrand is
positive, even and entire: the trapezoidal rule converges exponentially.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# exp(-4.95^2) is 2e-11; at this step the rule's error is below float32's.
_NODES = np.arange(34) * 0.15


def shared_opacity(log_transparency: Array, n: Array | float) -> Array:
    """Returns the opacity o' [...] of each of n [...] Gaussians, from log(1 - o) [...].

    It is exact near 0 and 1.
    """
    return -jnp.expm1(log_transparency / n)


def line_coverage(opacity: Array, n: Array) -> Array:
    """Returns D [...] of n [...] Gaussians of opacity o' [...] each."""
    falloff = jnp.asarray(np.exp(-(_NODES**2)), opacity.dtype)
    weights = np.full(_NODES.shape, 2 / math.sqrt(math.pi) * 0.15)
    weights[0] /= 2
    logs = jnp.log1p(-opacity[..., None] * falloff)
    depth = -jnp.expm1(n[..., None].astype(opacity.dtype) * logs)
    return jnp.sum(depth * jnp.asarray(weights, opacity.dtype), axis=-1)


def share_place(logits: Array, n: Array) -> tuple[Array, Array]:
    """Returns (o', s' / s) [...] for opacity logits [...] and numbers n [...] >= 1."""
    log_transparency = -jax.nn.softplus(logits)
    n = n.astype(logits.dtype)
    opacity = shared_opacity(log_transparency, n)
    return opacity, jax.nn.sigmoid(logits) / line_coverage(opacity, n)
