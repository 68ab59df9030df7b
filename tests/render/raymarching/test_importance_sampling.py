"""Step functions on rays: closed forms, and a loop over bins in numpy."""

import jax
import numpy as np
import pytest

from sdsjax.render.raymarching import importance_sampling as steps

sample_pdf = jax.jit(steps.sample_pdf, static_argnames="floor")
smooth_weights = jax.jit(steps.smooth_weights, static_argnums=1)
stratified_quantiles = jax.jit(steps.stratified_quantiles, static_argnums=0)
merge_sorted = jax.jit(steps.merge_sorted)


def looped(edges, weights, us, floor):
    """The inverse of the cumulated weights, one ray, one u at a time."""
    total = weights.sum()
    share = (weights / total if total > 0 else 0 * weights) + floor
    share = share / share.sum()
    found = []
    for u in us:
        below = 0.0
        for low, high, part in zip(edges[:-1], edges[1:], share):
            if u < below + part or high == edges[-1]:
                found.append(low + (high - low) * (u - below) / part)
                break
            below += part
    return np.array(found)


def test_samples_equal_a_loop():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.random((5, 9)), axis=-1)
    weights = rng.random((5, 8)) ** 4
    weights[3] = 0
    u = np.sort(rng.random((5, 12)), axis=-1)
    got = sample_pdf(np.float32(edges), np.float32(weights), np.float32(u), floor=1e-3)
    want = [looped(e, w, v, 1e-3) for e, w, v in zip(edges, weights, u)]
    np.testing.assert_allclose(got, np.stack(want), atol=3e-6)
    assert np.all(np.diff(np.asarray(got), axis=-1) >= 0)


def test_samples_of_closed_forms():
    """Even weights: a straight line; one bin: all in it; none: even."""
    edges = np.linspace(2.0, 4.0, 5, dtype=np.float32)[None]
    strata = np.float32((np.arange(8) + 0.5) / 8)[None]

    def found(weights, u):
        # always 8 of them, for which one program serves
        u = np.repeat(np.float32(u), 8 // np.size(u), axis=-1)
        return np.asarray(sample_pdf(edges, np.float32([weights]), u))

    even = 2 + 2 * strata
    np.testing.assert_allclose(found([1, 1, 1, 1], strata), even, rtol=1e-5)
    np.testing.assert_allclose(found([0, 0, 0, 0], strata), even, rtol=1e-5)
    one = found([0.0, 0.0, 1e-20, 0.0], strata)
    np.testing.assert_allclose(one, 3 + 0.5 * strata, atol=1e-3)
    got = found([3.0, 1.0, 0.0, 0.0], [[0.375, 0.875]])
    np.testing.assert_allclose(got, [[2.25] * 4 + [2.75] * 4], atol=1e-3)
    # a bin without a weight has a share of 1e-5: half of it is the bin's middle
    got = found([0.0, 0.0, 1.0, 0.0], [[0.5e-5 / (1 + 4e-5)]])
    np.testing.assert_allclose(got, np.full((1, 8), 2.25), atol=1e-3)


def test_stratified_quantiles_fill_each_stratum():
    offset = np.random.default_rng(0).random((50, 1), dtype=np.float32)
    u = np.asarray(stratified_quantiles(7, offset))
    assert u.shape == (50, 7)
    np.testing.assert_array_equal(np.floor(7 * u), np.tile(range(7), (50, 1)))
    np.testing.assert_allclose(stratified_quantiles(4), [0.125, 0.375, 0.625, 0.875])


def test_kernel_is_centred_and_its_ends_repeat():
    weights = np.float32([[6.0, 0.0, 3.0, 9.0]])
    np.testing.assert_allclose(smooth_weights(weights), [[4, 3, 4, 7]], rtol=1e-6)
    np.testing.assert_allclose(smooth_weights(weights, (1.0,)), weights)
    bump = smooth_weights(np.eye(7, dtype=np.float32)[3])
    np.testing.assert_allclose(bump, np.array([0, 0, 1, 1, 1, 0, 0]) / 3, rtol=1e-6)
    ones = np.ones(5, np.float32)
    np.testing.assert_allclose(smooth_weights(ones, (1, 2, 3, 2, 1)), 1)
    with pytest.raises(ValueError, match=r"2 entries.*odd"):
        smooth_weights(weights, (1.0, 1.0))


def test_merging_is_sorting_with_ties_too():
    rng = np.random.default_rng(0)
    first, second = (np.sort(rng.integers(0, 20, (30, n)), axis=-1) for n in (9, 7))
    merged = merge_sorted(first, second)
    want = np.sort(np.concatenate([first, second], axis=-1), axis=-1)
    np.testing.assert_array_equal(merged, want)


def test_points_are_merged_in_order_and_their_bins_cover_the_ray():
    merged = merge_sorted(np.float32([[1.0, 3.0]]), np.float32([[0.5, 2.0, 3.5]]))
    np.testing.assert_array_equal(merged, [[0.5, 1.0, 2.0, 3.0, 3.5]])
    ends = np.float32([0.0]), np.float32([4.0])
    edges = jax.jit(steps.edges_around)(merged, *ends)
    np.testing.assert_array_equal(edges, [[0, 0.75, 1.5, 2.5, 3.25, 4.0]])
    middles = jax.jit(steps.midpoints)(np.float32([0.0, 1, 4]))
    np.testing.assert_array_equal(middles, [0.5, 2.5])
