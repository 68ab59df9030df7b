"""Perp-Neg: weights by view, and the combination of one sample, whatever the batch."""

import jax
import numpy as np
import pytest

from sdsjax.diffusion import prompts
from sdsjax.diffusion.prompts import perp_neg, perp_neg_view, perpendicular

compiled = jax.jit(perp_neg_view)


def view_of(azimuth, elevation):
    return jax.device_get(compiled(azimuth, elevation))


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("azimuth", "rows", "mix"),
    [
        (0.0, (prompts.FRONT, prompts.RIGHT), (1.0, 0.0)),
        (45.0, (prompts.FRONT, prompts.LEFT), (0.5, 0.5)),
        (-90.0, (prompts.FRONT, prompts.RIGHT), (0.0, 1.0)),
        (270.0, (prompts.FRONT, prompts.RIGHT), (0.0, 1.0)),
        (135.0, (prompts.LEFT, prompts.BACK), (0.5, 0.5)),
        (180.0, (prompts.RIGHT, prompts.BACK), (0.0, 1.0)),
    ],
)
def test_the_positive_prompt_is_interpolated_by_azimuth(azimuth, rows, mix):
    view = view_of(azimuth, 0.0)
    np.testing.assert_array_equal(view.rows, rows)
    np.testing.assert_allclose(view.mix, mix, atol=1e-6)
    assert view.negatives[0] == prompts.FRONT
    assert view.negatives[1] in (prompts.LEFT, prompts.RIGHT)


def test_weights_follow_the_published_curves():
    front = view_of(0.0, 0.0).weights
    np.testing.assert_allclose(front, [0.0, -(4.0 - 2.426)], atol=1e-3)
    side = view_of(90.0, 0.0).weights
    np.testing.assert_allclose(side, [-(4.0 - 2.426), 0.0], atol=1e-3)
    back = view_of(180.0, 0.0).weights
    np.testing.assert_allclose(back, [-1.967, -(1.0 - 0.606)], atol=1e-3)
    decay = np.exp(-0.5 * 0.5)
    between = view_of(45.0, 0.0).weights
    np.testing.assert_allclose(between, [-(4.0 * decay - 2.426)] * 2, atol=1e-5)
    behind = view_of(-135.0, 0.0).weights
    np.testing.assert_allclose(behind, [-(decay + 0.967), -(decay - 0.606)], atol=1e-5)
    azimuths = np.linspace(-180.0, 180.0, 73, dtype=np.float32)
    of_all = jax.jit(jax.vmap(perp_neg_view, (0, None)))
    weights = np.asarray(of_all(azimuths, 0.0).weights)
    assert (weights <= 0).all()
    np.testing.assert_allclose(weights, weights[::-1], atol=1e-5)  # left as right


def test_from_above_there_is_one_prompt_and_no_negative():
    view = view_of(30.0, 75.0)
    np.testing.assert_array_equal(view.rows, [prompts.OVERHEAD] * 2)
    np.testing.assert_array_equal(view.weights, 0.0)
    np.testing.assert_allclose(view.mix.sum(), 1.0)
    # above 60 degrees, not at 60
    for elevation, above in ((59.9, False), (60.0, False), (60.1, True)):
        rows = np.asarray(view_of(30.0, elevation).rows)
        assert (rows == prompts.OVERHEAD).tolist() == [above] * 2


def test_the_perpendicular_part_is_perpendicular():
    (a, b), part_of = drawn(2, 4, 4, 3), jax.jit(perpendicular)
    part = np.asarray(part_of(a, b))
    assert abs(float(np.sum(part * b))) < 1e-4
    np.testing.assert_allclose(part_of(2.0 * b, b), 0.0, atol=1e-5)
    np.testing.assert_array_equal(part_of(a, 0 * b), a)


def test_a_negative_that_is_parallel_changes_nothing():
    cond, uncond = drawn(2, 4, 4, 3)
    negatives = uncond + 3.0 * (cond - uncond)[None]
    out = jax.jit(perp_neg)(cond, uncond, negatives, np.float32([-1.5]))
    np.testing.assert_allclose(out, cond, atol=1e-5)


def test_any_batch_is_the_loop():
    """threestudio issue 456: an inner product that runs over the batch."""
    cond, uncond, *negatives = drawn(4, 3, 4, 4, 3)
    negatives = np.stack(negatives, 1)
    weights = -np.random.default_rng(1).uniform(size=(3, 2)).astype(np.float32)
    together = jax.jit(jax.vmap(perp_neg))(cond, uncond, negatives, weights)
    for i in range(3):
        e = cond[i] - uncond[i]
        wanted = uncond[i] + e
        for j in range(2):
            other = negatives[i, j] - uncond[i]
            share = (other * e).sum() / (e * e).sum()
            wanted += weights[i, j] * (other - share * e)
        np.testing.assert_allclose(together[i], wanted, rtol=1e-4, atol=1e-5)
