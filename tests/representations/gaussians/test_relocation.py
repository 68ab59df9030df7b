"""Sharing a place among n Gaussians: the published formula, and the picture."""

import jax
import numpy as np
import pytest

from sdsjax.representations.gaussians.density_control import relocation

_share_place = jax.jit(relocation.share_place)


def share_place(logits, n):
    """As numpy arrays, whose arithmetic compiles nothing."""
    return jax.device_get(_share_place(np.float32(logits), np.int32(n)))


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.float64(np.float32(logits))))


def by_loops(opacity: float, n: int) -> tuple[float, float]:
    """(o', s' / s) as 3DGS-MCMC (arXiv 2404.09591, eq. 9) writes them, in float64."""
    from math import comb, sqrt

    shared = 1 - (1 - opacity) ** (1 / n)
    total = 0.0
    for i in range(1, n + 1):
        for k in range(i):
            total += comb(i - 1, k) * (-1) ** k * shared ** (k + 1) / sqrt(k + 1)
    return shared, opacity / total


# up to where the alternating sum of `by_loops` keeps eight digits in float64
@pytest.mark.parametrize("opacity", [0.006, 0.05, 0.3, 0.7, 0.95, 0.999])
def test_formula_against_loops_in_float64(opacity):
    numbers = np.array([1, 2, 3, 5, 9, 20, 35, 51])
    logits = np.full(len(numbers), np.log(opacity / (1 - opacity)))
    exact = sigmoid(logits[0])
    want = np.array([by_loops(exact, int(n)) for n in numbers])
    shared, factor = share_place(logits, numbers)
    np.testing.assert_allclose(shared, want[:, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(factor, want[:, 1], rtol=1e-5)


def test_one_alone_keeps_what_it_has():
    logits = np.linspace(-8.0, 8.0, 33)
    shared, factor = share_place(logits, np.ones(33))
    np.testing.assert_allclose(shared, sigmoid(logits), rtol=2e-6)
    np.testing.assert_allclose(factor, 1.0, rtol=2e-6)


def test_stacked_copies_are_as_opaque_as_one_was():
    logits = np.array([-30.0, -3.0, 0.0, 5.0, 12.0])
    for n in (2, 51):
        shared, factor = share_place(logits, np.full(5, n))
        assert np.all(np.isfinite(factor))
        together = -np.expm1(n * np.log1p(-np.float64(shared)))
        np.testing.assert_allclose(together, sigmoid(logits), rtol=1e-5)
