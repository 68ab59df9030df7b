"""Gradient statistics: closed forms on Gaussians, plain numpy, honest error bars."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diagnostics import gradient_stats as gs
from sdsjax.diagnostics import moments
from sdsjax.diagnostics.noise_projection import linear_correlation, noise_projection
from sdsjax.diagnostics.variance_components import (
    components_from_squares,
    variance_components,
)
from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.priors import gaussian_mixture
from sdsjax.types import Rendering

SCHEDULE = NoiseSchedule.scaled_linear()
MEAN, SCALE = np.float32([3.0, -1.0, 0.5]), np.float32([1.0, 2.0, 0.5])


def tree_sample(key):
    """G = (MEAN + SCALE * eps, a scalar of mean 2 and variance 4), as a tree."""
    key_a, key_b = jax.random.split(key)
    return {
        "a": MEAN + SCALE * jax.random.normal(key_a, (3,)),
        "b": (2.0 + 2.0 * jax.random.normal(key_b, ()),),
    }


VARIANCE = float(np.sum(SCALE**2)) + 4.0
SIGNAL = float(np.sum(MEAN**2)) + 4.0


def drawn(sample, key, count):
    """The samples that `observe` draws, all at once, flattened [count d]."""

    @jax.jit
    def draw(key, which):
        return jax.vmap(lambda i: sample(jax.random.fold_in(key, i)))(which)

    leaves = jax.tree.leaves(draw(key, np.arange(count)))
    return np.concatenate(
        [np.asarray(x, np.float64).reshape(count, -1) for x in leaves], 1
    )


def stats(sample, **settings):
    return jax.jit(lambda key: gs.gradient_stats(sample, key, **settings))


def covers(measured, truth):
    low, high = measured.interval()
    return np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high)))


@pytest.mark.parametrize(("groups", "chunk"), [(2, 7), (8, 64)])
def test_streaming_is_the_two_pass_computation(groups, chunk):
    key, n = jax.random.key(0), 96
    found = stats(tree_sample, samples=n, groups=groups, chunk=chunk)(key)
    x = drawn(tree_sample, key, n)
    variance = x.var(0, ddof=1).sum()
    signal = (x.mean(0) ** 2).sum() - variance / n
    np.testing.assert_allclose(found.variance.value, variance, rtol=1e-5)
    np.testing.assert_allclose(found.signal.value, signal, rtol=1e-5)
    np.testing.assert_allclose(found.snr.value, signal / variance, rtol=1e-5)
    np.testing.assert_allclose(found.power.value, (x**2).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(found.mean["a"], x.mean(0)[:3], rtol=1e-5)
    assert int(found.count) == n
    # The jackknife, in full: every group left out and all recomputed.
    parts = x.reshape(groups, -1, x.shape[1])
    each = []
    for h in range(groups):
        rest = np.delete(parts, h, 0).reshape(-1, x.shape[1])
        left = rest.var(0, ddof=1).sum()
        each.append([left, (rest.mean(0) ** 2).sum() - left / len(rest)])
    error = np.sqrt((groups - 1) * np.var(each, axis=0))
    got = [found.variance.error, found.signal.error]
    np.testing.assert_allclose(got, error, rtol=2e-3)
    assert found.variance.dof == groups - 1


def test_no_digits_are_lost_far_from_zero():
    """A mean of 10^4 beside a variance of 1: the difference of squares would be 0."""
    sample = lambda key: 1e4 + jax.random.normal(key, (2,))  # noqa: E731
    found = stats(sample, samples=4000)(jax.random.key(0))
    np.testing.assert_allclose(found.variance.value, 2.0, rtol=0.1)
    x = drawn(sample, jax.random.key(0), 4000)
    np.testing.assert_allclose(found.variance.value, x.var(0, ddof=1).sum(), rtol=1e-3)


def test_merging_is_associative_and_knows_the_empty_set():
    samples = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32) + 5
    live = np.ones(9, bool)
    of, merge = jax.jit(moments.moments_of), jax.jit(moments.merge_moments)
    whole = of(samples, live)
    nothing = moments.no_samples(samples[0])
    parts = [of(samples[i : i + 3], live[:3]) for i in (0, 3, 6)]
    left = merge(merge(*parts[:2]), parts[2])
    right = merge(parts[0], merge(*parts[1:]))
    for other in (left, right, merge(nothing, whole)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), other, whole)
    masked = of(samples, np.arange(9) < 3)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), masked, parts[0])


def test_error_bars_cover_what_they_promise():
    run = jax.jit(jax.vmap(lambda k: gs.gradient_stats(tree_sample, k, samples=160)))
    found = jax.device_get(run(jax.random.split(jax.random.key(1), 200)))
    truths = {
        "variance": VARIANCE,
        "signal": SIGNAL,
        "snr": SIGNAL / VARIANCE,
        "power": SIGNAL + VARIANCE,
    }
    for figure, truth in truths.items():
        measured = getattr(found, figure)._replace(dof=15)
        assert 0.88 <= covers(measured, truth) <= 0.99, figure
        # ... and the estimates are unbiased, where they claim to be
        if figure != "snr":
            error = np.std(measured.value, ddof=1) / np.sqrt(200)
            assert abs(np.mean(measured.value) - truth) < 4 * error, figure


def test_errors_of_means_and_intervals_are_students():
    """1, 2, 6: mean 3, s^2 = 7, error sqrt(7 / 3); t of 95% and 2 degrees: 4.30265."""
    found = gs.mean_of_groups(jnp.array([1.0, 2.0, 6.0]))
    np.testing.assert_allclose(found.value, 3.0)
    np.testing.assert_allclose(found.error, np.sqrt(7 / 3), rtol=1e-6)
    reach = 4.30265 * np.sqrt(7 / 3)
    np.testing.assert_allclose(found.interval(), [3 - reach, 3 + reach], rtol=1e-5)
    assert found.dof == 2


def test_signal_of_pure_noise_is_zero_and_may_be_negative():
    normal = lambda key: jax.random.normal(key, (5,))  # noqa: E731
    run = jax.jit(jax.vmap(lambda k: gs.gradient_stats(normal, k, samples=64).signal))
    found = jax.device_get(run(jax.random.split(jax.random.key(2), 200)))
    assert (found.value < 0).any()
    assert abs(found.value.mean()) < 4 * found.value.std() / np.sqrt(200)
    assert covers(found._replace(dof=15), 0.0) >= 0.9


def test_groups_that_do_not_fit_are_refused():
    for samples, groups in [(10, 4), (3, 4), (8, 1)]:
        with pytest.raises(ValueError, match="multiple"):
            gs.gradient_stats(
                tree_sample, jax.random.key(0), samples=samples, groups=groups
            )


def grouped(sample, key, samples, groups=16):
    @jax.jit
    def observe(key):
        draw = lambda k: moments.Draw({"g": sample(k)}, {})  # noqa: E731
        return moments.observe(draw, key, samples=samples, groups=groups)[0]

    return observe(key)["g"]


@pytest.mark.slow
def test_bias_against_a_reference_covers_the_truth():
    """A has 0.9 times B's mean plus (0, .2, 0): |bias|^2 and its part along B."""
    shift = jnp.array([0.0, 0.2, 0.0])

    def a(key):
        return 0.9 * MEAN + shift + jax.random.normal(key, (3,))

    def b(key):
        return MEAN + jax.random.normal(key, (3,))

    bias = np.asarray(-0.1 * MEAN + shift)
    along = float(bias @ MEAN / (MEAN @ MEAN))

    def one(key):
        key_a, key_b = jax.random.split(key)
        return gs.bias_between(grouped(a, key_a, 320), grouped(b, key_b, 3200))

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 200))
    assert 0.88 <= covers(found.square._replace(dof=15), bias @ bias) <= 0.99
    assert 0.88 <= covers(found.along._replace(dof=15), along) <= 0.99
    mean = np.asarray(MEAN) + bias
    cosine = mean @ MEAN / np.sqrt((mean @ mean) * (MEAN @ MEAN))
    assert 0.88 <= covers(found.cosine._replace(dof=15), float(cosine)) <= 0.995
    error = np.std(found.square.value) / np.sqrt(200)
    assert abs(np.mean(found.square.value) - bias @ bias) < 4 * error
    ratio = gs.variance_ratio(
        grouped(lambda k: 3.0 * b(k), jax.random.key(5), 64),
        grouped(b, jax.random.key(5), 64),
    )
    np.testing.assert_allclose(ratio.value, 9.0, rtol=1e-4)
    assert ratio.error < 1e-3  # paired
    # Equal keys pair the noise away: the bias is then exact.
    paired = gs.bias_between(*(grouped(f, jax.random.key(4), 64) for f in (a, b)))
    np.testing.assert_allclose(paired.square.value, bias @ bias, rtol=1e-3)
    assert paired.square.error < 1e-4
    with pytest.raises(ValueError, match="groups"):
        gs.bias_between(
            grouped(a, jax.random.key(0), 8, 4), grouped(b, jax.random.key(0), 8, 8)
        )


def mixed(view, t, key):
    """G = 5 + a view's effect (variance 1 + 4) + t's + their product + noise."""
    level = t.astype(jnp.float32)
    ones = jnp.ones(3)
    noise = 0.5 * jax.random.normal(key, (3,))
    return {"g": 5.0 * ones + view + level * ones + 0.7 * level * view + noise}


def components(key, **sizes):
    return variance_components(
        lambda k: jax.random.normal(k, (3,)),
        lambda k: 2 * jax.random.bernoulli(k).astype(jnp.int32) - 1,
        mixed,
        key,
        **sizes,
    )


def test_components_are_the_closed_form():
    """View 3, time 3, interaction 3 * .49, noise 3 / 4; each interval covers it."""
    sizes = {"views": 5, "times": 6, "noises": 3, "replicates": 12, "chunk": 2}
    run = jax.jit(jax.vmap(lambda k: components(k, **sizes)))
    found, shares = jax.device_get(run(jax.random.split(jax.random.key(5), 100)))
    truth = {"view": 3.0, "time": 3.0, "interaction": 1.47, "noise": 0.75}
    truth["total"] = sum(truth.values())
    for name, value in truth.items():
        measured = getattr(found, name)._replace(dof=11)
        error = np.std(measured.value, ddof=1) / 10
        assert abs(np.mean(measured.value) - value) < 4 * error, name
        assert covers(measured, value) >= 0.86, name
        if name != "total":
            middle = np.mean(shares[name].value)
            assert abs(middle - value / truth["total"]) < 0.05


@pytest.mark.slow
def test_components_are_plain_anova_and_do_not_depend_on_chunks():
    views, times, noises = 3, 4, 5
    y = np.random.default_rng(0).normal(size=(views, times, noises, 2)) + 100.0
    cell, row, column = y.mean(2), y.mean((1, 2)), y.mean((0, 2))
    mean = y.mean((0, 1, 2))
    squares = [
        ((row - mean) ** 2).sum(),
        ((column - mean) ** 2).sum(),
        ((cell - mean) ** 2).sum(),
        ((y - cell[:, :, None]) ** 2).sum(),
    ]
    found = components_from_squares(views, times, noises, *squares)
    both = noises * ((cell - row[:, None] - column[None] + mean) ** 2).sum() / 6
    np.testing.assert_allclose(found["noise"], squares[3] / 48, rtol=1e-9)
    np.testing.assert_allclose(
        found["interaction"], (both - found["noise"]) / noises, rtol=1e-6
    )
    np.testing.assert_allclose(
        found["view"], (20 * squares[0] / 2 - both) / 20, rtol=1e-6
    )
    a, b = (components(jax.random.key(6), chunk=c)[0].view.value for c in (1, 64))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_absent_components_come_out_negative_too():
    """Pure noise: the other components scatter about 0 and are not clipped."""

    @jax.jit
    @jax.vmap
    def run(key):
        return variance_components(
            lambda key: jnp.zeros(()),
            lambda key: jnp.zeros((), jnp.int32),
            lambda view, t, key: jax.random.normal(key, (2,)),
            key,
            views=3, times=3, noises=3, replicates=4,
        )[0]  # fmt: skip

    found = jax.device_get(run(jax.random.split(jax.random.key(7), 60)))
    for name in ("view", "time", "interaction"):
        value = np.asarray(getattr(found, name).value)
        assert (value < 0).any()
        assert abs(value.mean()) < 4 * value.std() / np.sqrt(60)
    with pytest.raises(ValueError, match="noises = 1"):
        components(jax.random.key(0), noises=1)


@pytest.mark.slow
def test_the_reduced_terms_of_the_estimators_are_the_ones_measured():
    """`ssd` below M without rescaling is e_y - (1, 0 or r) eps: same variance."""
    prior = gaussian_mixture(
        SCHEDULE, [1.0, 2.0], jnp.array([[1.0, 0.0], [-1.0, 1.0]]), [0.1, 0.2],
        [True, True],
    )  # fmt: skip
    z, t = jnp.array([0.3, 0.2]), jnp.int32(120)
    found = noise_projection(prior, z, t, jax.random.key(0), samples=4096)
    for name, left in found.left.items():
        if name == "optimal":
            continue
        estimator = ESTIMATORS["ssd"](
            SCHEDULE, threshold=500, rescale=False, reduction=name, weighting="one"
        )
        run = stats(
            lambda k, e=estimator: e.estimate(prior, k, (), z, t, None).grad,
            samples=4096,
        )
        variance = run(jax.random.key(1)).variance
        error = np.hypot(variance.error, left.error)
        assert abs(variance.value - left.value) < 4 * error


def test_linear_correlation_of_gaussians():
    """e = A eps + b eta with A = diag: rho = tr A / tr (A A^T + b^2 I)^{1/2}."""
    diagonal, b = np.float32([2.0, 1.0, 0.2]), 0.5
    truth = float(diagonal.sum() / np.sqrt(diagonal**2 + b**2).sum())

    def sample(key):
        eps, eta = jax.random.normal(key, (2, 3))
        return 7.0 + diagonal * eps + b * eta, eps

    @jax.jit
    @jax.vmap
    def run(key):
        return linear_correlation(sample, key, samples=640, groups=8, chunk=9)

    keys = jax.random.split(jax.random.key(8), 60)
    found = jax.device_get(run(keys))
    assert covers(found._replace(dof=7), truth) >= 0.85
    one = jax.tree.map(lambda leaf: leaf[0], found)
    x = drawn(sample, keys[0], 640)
    e, eps = x[:, :3], x[:, 3:]
    cross = np.trace(np.cov(e.T, eps.T)[:3, 3:])
    root = np.sqrt(np.linalg.eigvalsh(np.cov(e.T))).sum()
    np.testing.assert_allclose(one.value, cross / root, rtol=1e-3)
    with pytest.raises(ValueError, match="samples"):
        linear_correlation(
            lambda k: (jnp.ones(9), jnp.ones(9)), jax.random.key(0), samples=8, groups=2
        )


def test_by_time_is_each_bin_alone():
    def sample(key, t):
        return t.astype(jnp.float32) * (1.0 + jax.random.normal(key, (2,)))

    run = jax.jit(partial(gs.by_time, sample, samples=3200))
    found = jax.device_get(run(np.array([10, 11, 21]), jax.random.key(0)))
    assert found.variance.value.shape == (2,)
    assert abs(found.variance.value[0] - 200) < 4 * found.variance.error[0]
    t = np.arange(11, 21)
    within = 2 * (t**2).mean() + 2 * t.var()
    assert abs(found.variance.value[1] - within) < 4 * found.variance.error[1]


def test_pulled_back_variance_is_the_jacobian_s():
    """theta = (scale, offset), z = 3 (2 rgb - 1): tr Cov(J^T g) in closed form."""
    base = np.float32([1.0, -2.0, 0.5, 4.0])
    prior = gaussian_mixture(SCHEDULE, [1.0], np.ones((1, 4)), [0.3], [True])
    prior = prior._replace(encode=lambda x: 3.0 * x)

    def forward(theta, camera):
        rgb = theta["scale"] * base * camera + theta["offset"]
        flat = jnp.ones(4)
        x = 2.0 * rgb - 1.0
        return (prior.encode(x), x), Rendering(rgb, flat, flat, rgb)

    estimator, t = ESTIMATORS["sds"](SCHEDULE, weighting="one"), jnp.int32(300)

    @jax.jit
    def run(theta, camera, key):
        at = gs.linearise(forward, theta, camera)
        sample = partial(gs.both_gradients, estimator, prior, (), at, t)
        found, _ = moments.observe(
            lambda k: moments.Draw(sample(k), {}), key, samples=4096
        )
        return {name: gs.describe_groups(of).variance for name, of in found.items()}

    theta = {"scale": np.float32(0.1), "offset": np.float32(0.2)}
    found = jax.device_get(run(theta, np.float32(2.0), jax.random.key(0)))
    alpha, sigma = (float(np.asarray(of)[300]) for of in SCHEDULE)
    k = sigma**2 / (alpha**2 * 0.3 + sigma**2)
    jacobian = 6.0 * np.stack([2.0 * base, np.ones(4)])
    for name, truth in [
        ("z", 4 * (k - 1) ** 2),
        ("theta", (k - 1) ** 2 * (jacobian**2).sum()),
    ]:
        variance = found[name]
        assert abs(variance.value - truth) < 4 * variance.error
        assert variance.error < 0.1 * truth
