"""Losses of rays: each against a loop, a closed form, and a ray that meets nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax import losses

z_variance = jax.jit(losses.z_variance, static_argnames="reduction")
ray_variance, ray_distortion = map(
    jax.jit, (losses.ray_variance, losses.ray_distortion)
)
ray_orientation = jax.jit(losses.ray_orientation)
normal_smoothness = jax.jit(losses.normal_smoothness)
RNG = np.random.default_rng(0)
EDGES = np.sort(3 * RNG.random((4, 7)), axis=-1)
CENTRES = 0.5 * (EDGES[:, 1:] + EDGES[:, :-1])
WEIGHTS = RNG.random((4, 6)) / 5
WEIGHTS[2] = 0
WEIGHTS[3] *= 0.1  # a ray of opacity below one half


def variance_of(weights, z):
    p = weights / weights.sum()
    mean = sum(a * b for a, b in zip(p, z))
    return sum(a * (b - mean) ** 2 for a, b in zip(p, z))


def test_z_variance_equals_a_loop_in_every_reduction():
    assert (WEIGHTS.sum(axis=1) > 0.5).tolist() == [True, True, False, False]
    each = [variance_of(w, z) for w, z in zip(WEIGHTS[:2], CENTRES[:2])]
    for reduction, want in (
        ("mean", sum(each) / 4),
        ("counted", sum(each) / 2),
        ("sum", sum(each)),
    ):
        got = z_variance(WEIGHTS, CENTRES, reduction=reduction)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    # more than one half, and no less: a pair of weights one apart, of variance 1/4
    for weight, want in ((0.24, 0.0), (0.25, 0.0), (0.255, 0.25)):
        pair = np.full(2, weight), np.array([1.0, 2.0])
        got = z_variance(*pair, reduction="sum")
        np.testing.assert_allclose(got, want, rtol=1e-5)
    with pytest.raises(ValueError, match=r"'max'.*mean, counted, sum"):
        z_variance(WEIGHTS, CENTRES, reduction="max")


def test_z_variance_of_closed_forms():
    """Two equal weights d apart: d^2 / 4; one alone: 0; none: 0, not NaN."""
    z = np.array([1.0, 1.6, 5.0])
    pair = z_variance(np.array([0.4, 0.4, 0.0]), z, reduction="sum")
    np.testing.assert_allclose(pair, 0.09, rtol=1e-5)
    assert float(ray_variance(np.array([0.0, 0.9, 0.0]), z)) < 1e-12
    for reduction in losses.REDUCTIONS:
        assert float(z_variance(0 * z, z, reduction=reduction)) == 0


def test_distortion_equals_a_loop():
    want = []
    for w, m, e in zip(WEIGHTS, CENTRES, EDGES):
        pairs = sum(w[i] * w[j] * abs(m[i] - m[j]) for i in range(6) for j in range(6))
        own = sum(w[i] ** 2 * (e[i + 1] - e[i]) for i in range(6)) / 3
        want.append(pairs + own)
    got = ray_distortion(WEIGHTS, EDGES)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_distortion_of_even_weights_is_the_mean_distance():
    """Two uniform draws from an interval of length L are L / 3 apart, however it is
    cut: the second term is the share of pairs inside one bin."""
    for n in (1, 50):
        edges = np.linspace(2.0, 4.0, n + 1)
        got = ray_distortion(np.full(n, 1 / n), edges)
        np.testing.assert_allclose(got, 2 / 3, rtol=1e-5)


def test_orientation_counts_normals_that_face_away():
    normals = RNG.normal(size=(4, 6, 3))
    directions = RNG.normal(size=(4, 3))
    want = [
        sum(w[i] * max(0.0, float(n[i] @ d)) ** 2 for i in range(6))
        for w, n, d in zip(WEIGHTS, normals, directions)
    ]
    got = ray_orientation(WEIGHTS, normals, directions)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    facing = -np.broadcast_to(directions[:, None], normals.shape)
    assert not np.asarray(ray_orientation(WEIGHTS, facing, directions)).any()


def test_normals_are_smooth_over_opaque_pairs_only():
    tilt = 0.3
    normal = np.zeros((3, 4, 3))
    normal[..., 2] = 1
    normal[:, 2:] = [np.sin(tilt), 0, np.cos(tilt)]
    opacity = np.ones((3, 4))
    step = 2 - 2 * np.cos(tilt)  # one of three pairs across, none down
    got = normal_smoothness(normal, opacity)
    np.testing.assert_allclose(got, step / 3, rtol=1e-5)
    for opaque, pairs in ((0.51, 1 / 3), (0.5, 0.0), (0.2, 0.0)):
        opacity[:, 2] = opaque  # the step lies at a pixel that may not be opaque
        got = normal_smoothness(normal, opacity)
        np.testing.assert_allclose(got, step * pairs, rtol=1e-5)


def test_gradients_are_finite_where_little_or_nothing_is_met():
    directions = np.tile([0.0, 0.0, 1.0], (4, 1))

    @jax.jit
    @jax.grad
    def slope(inputs):
        weights, normals = inputs
        opacity = jnp.sum(weights, axis=-1)[:, None]
        return (
            z_variance(weights, CENTRES, reduction="counted")
            + z_variance(weights, CENTRES, reduction="mean")
            + jnp.sum(ray_variance(weights, CENTRES))
            + jnp.sum(ray_distortion(weights, EDGES))
            + jnp.sum(ray_orientation(weights, normals, directions))
            + normal_smoothness(normals[:, :1], opacity)
            + losses.sparsity(opacity)
            + losses.binary_entropy(opacity)
        )

    for size in (0.0, 1e-30, 1e-12, 0.2):
        inputs = np.full((4, 6), size, np.float32), np.zeros((4, 6, 3), np.float32)
        for leaf in slope(inputs):
            assert np.all(np.isfinite(leaf)), size
