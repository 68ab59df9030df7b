"""Several noises a rendering: what is drawn, its mean and its variance.

The exact prior is one Gaussian, whose noise prediction is linear in eps: with one t the
direction's noise is odd in eps, and antithetic pairs leave none of it.
"""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule, alpha_sigma
from sdsjax.diffusion.importance import no_statistics, observed
from sdsjax.diffusion.timesteps import TIMESTEPS, evenly
from sdsjax.estimators import ESTIMATORS
from sdsjax.training.noises.samples import (
    NoiseSamples,
    check_noise,
    draw_noises,
    linear_of_samples,
    mean_of_samples,
    repeated,
)
from sdsjax.training.train_step import make_directions
from sdsjax.types import Linear, NoisePrediction, Prior, PriorSource, View

SCHEDULE = NoiseSchedule.scaled_linear()
UNIFORM = TIMESTEPS["uniform"]()
# where the direction rises with t, so that neither half has the mean of all
RISING = (20, 500)
SHAPE, M = (2, 2, 3), 4
DRAWS = 4000


def draw(noise, m=M, key=0, statistics=None):
    @jax.jit
    def drawn(key, statistics):
        keys = jax.random.split(key)
        return draw_noises(noise, UNIFORM, *keys, 0, 10, m, statistics)

    return drawn(jax.random.key(key), statistics)


def test_one_noise_is_what_it_always_was():
    key_t, key_estimate = jax.random.split(jax.random.key(0))
    drawn = draw(NoiseSamples())
    plain = jax.jit(lambda key: UNIFORM(key, 0, 10, (M,)))
    np.testing.assert_array_equal(drawn.t, plain(key_t))
    keys = jax.random.split(key_estimate, M)
    np.testing.assert_array_equal(*map(jax.random.key_data, (drawn.keys, keys)))
    assert drawn.weights is None


def parts_of(t, parts):
    # which of the equal parts of U[20, 980] each t is in
    return np.sort((np.asarray(t) - 20) * parts // 961, axis=-1)


def test_each_part_of_the_distribution_has_one_t():
    within = np.asarray(draw(NoiseSamples(8, stratified=True)).t).reshape(M, 8)
    np.testing.assert_array_equal(parts_of(within, 8), [np.arange(8)] * M)
    over = draw(NoiseSamples(stratified=True), m=32).t
    np.testing.assert_array_equal(parts_of(over, 32), np.arange(32))
    assert (np.diff(over) < 0).any(), "a rendering has no part of its own"
    pairs = draw(NoiseSamples(2, stratified=True, antithetic=True), m=32).t
    pairs = np.asarray(pairs)
    np.testing.assert_array_equal(pairs[::2], pairs[1::2])
    np.testing.assert_array_equal(parts_of(pairs[::2], 32), np.arange(32))


def test_a_common_t_is_that_of_every_rendering():
    t = draw(NoiseSamples(6, common_time=True, antithetic=True)).t
    t = np.asarray(t).reshape(M, 3, 2)
    assert (t == t[:1, :, :1]).all()
    assert len(np.unique(t)) == 3


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (NoiseSamples(3, antithetic=True), "samples_per_view = 3 is odd"),
        (NoiseSamples(stratified=True, common_time=True), "samples_per_view to 2"),
        (NoiseSamples(2, True, True, True), "samples_per_view to 4"),
    ],
)
def test_options_that_do_not_go_together_are_refused(noise, said):
    with pytest.raises(ValueError, match=said):
        check_noise(noise)


def test_a_sampler_without_quantiles_is_refused_where_they_are_needed():
    with pytest.raises(ValueError, match="quantile"):
        draw_noises(
            NoiseSamples(2, stratified=True), lambda *a: None,
            *jax.random.split(jax.random.key(0)), 0, 1, M, (),
        )  # fmt: skip


def test_the_linear_maps_of_samples_pull_back_their_mean():
    rng = np.random.default_rng(3)
    matrix, g = (rng.normal(size=size).astype("f4") for size in ((4 * 3, 5), (8, 3)))
    views = Linear(
        lambda g: g.reshape(-1) @ matrix, lambda d: (matrix @ d).reshape(4, 3)
    )
    samples = linear_of_samples(views, 2)
    mean = (g[::2] + g[1::2]) / 2
    pulled = jax.jit(samples.pullback)(g)
    np.testing.assert_allclose(pulled, views.pullback(mean), rtol=1e-5)
    pushed = np.asarray(jax.jit(samples.pushforward)(np.arange(5, dtype="f4")))
    np.testing.assert_array_equal(pushed[::2], pushed[1::2])
    assert mean_of_samples(g, 1) is g
    assert repeated(g, 1) is g


# Statistics of a run that met larger directions at small t: not those of the prior, so
# that weights matter.
TIMES = np.linspace(20, 980, 200).astype("i4")


@cache
def statistics():
    """Made where it is asked for: every worker reads this file."""
    met = (3.0 - TIMES / 400).astype("f4")
    return jax.jit(lambda t, met: observed(no_statistics(), t, met))(TIMES, met)


def one_gaussian(mean):
    """The exact prior N(mean, .4), in the few operations that it takes."""

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        alpha, sigma = alpha_sigma(SCHEDULE, t)
        found = sigma * (z_t - alpha * mean) / (0.4 * alpha**2 + sigma**2)
        return NoisePrediction(**dict.fromkeys(branches, found))

    return Prior(SCHEDULE, noise, encode=lambda x: x)


@cache
def program(noise):
    """(ends of the times, keys) -> mean directions [DRAWS m 2 2 3] at one z."""
    mean = np.full(SHAPE, 0.3, "f4")
    source = PriorSource(mean, one_gaussian)
    m, sds = 2, ESTIMATORS["sds"](SCHEDULE)
    step = np.int32(0)
    state = SimpleNamespace(
        step=step, estimator_state=(), noise_state=noise.importance and statistics()
    )
    z = jnp.asarray(np.linspace(0.5, 1, m * 12, dtype="f4").reshape(m, *SHAPE))

    def one(ends, key):
        sampler = evenly(lambda step, total: ends)
        made = make_directions(source, sds, sampler, 10, noise=noise)
        return made(state, mean, jax.random.split(key), z, View(None, None)).g_z

    return jax.jit(jax.vmap(one, (None, 0)))


@cache
def draws():
    return jax.random.split(jax.random.key(7), DRAWS)


@cache
def directions_of(noise, ends=(20, 980)):
    """DRAWS mean directions of times from one end to the other, float64."""
    return np.asarray(program(noise)(ends, draws()), np.float64)


def variance(g, over=(1, 2, 3, 4)):
    """The total variance over draws, and its standard error."""
    squares = ((g - g.mean(0)) ** 2).sum(over)
    return squares.mean(), squares.std() / DRAWS**0.5


OPTIONS = [
    NoiseSamples(),
    NoiseSamples(1, stratified=True),
    NoiseSamples(2, antithetic=True),
    NoiseSamples(4, stratified=True),
    NoiseSamples(1, importance=True),
    NoiseSamples(4, True, True, False, True),
    NoiseSamples(4, True, True, True, True),
]


@pytest.mark.parametrize("noise", OPTIONS, ids=str)
def test_every_option_has_the_mean_of_plain_sampling(noise):
    """The closed form: sigma^2 E[e - eps] of N(.3, .4), over t = 20 .. 500."""
    found = directions_of(noise, RISING)
    alpha, sigma = (
        np.asarray(v, float)[20:501] for v in (SCHEDULE.alphas, SCHEDULE.sigmas)
    )
    slope = np.mean(sigma**3 * alpha / (0.4 * alpha**2 + sigma**2))
    z = np.linspace(0.5, 1, 24).reshape(2, *SHAPE)
    error = np.sqrt(found.var(0) / DRAWS)
    # 24 numbers: the largest of so many is within 4.5 errors
    assert (np.abs(found.mean(0) - slope * (z - 0.3)) < 4.5 * error + 1e-6).all()


def test_weights_that_are_left_out_would_be_seen():
    """The mean moves by many errors without them: the test above can fail."""
    drawn = draw(NoiseSamples(1, importance=True), 4000, statistics=statistics())
    t, weights = (np.asarray(v, np.float64) for v in (drawn.t, drawn.weights))
    assert abs(t.mean() - 500) > 10 * t.std() / 4000**0.5
    weighted = t * weights
    assert abs(weighted.mean() - 500) < 4.5 * weighted.std() / 4000**0.5
    assert abs(weights.mean() - 1) < 4.5 * weights.std() / 4000**0.5


def test_k_noises_leave_a_kth_of_the_variance():
    (one, e_one), (four, e_four) = (
        variance(directions_of(NoiseSamples(k))) for k in (1, 4)
    )
    assert abs(one - 4 * four) < 4 * np.hypot(e_one, 4 * e_four)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (NoiseSamples(2, antithetic=True), NoiseSamples(2)),
        (NoiseSamples(4, stratified=True), NoiseSamples(4)),
        (NoiseSamples(4, stratified=True, antithetic=True), NoiseSamples(4)),
    ],
)
def test_variance_is_lower_where_theory_says_so(less, more):
    (a, e_a), (b, e_b) = (variance(directions_of(n)) for n in (less, more))
    assert a + 4 * np.hypot(e_a, e_b) < b


def test_strata_over_the_batch_lower_the_variance_of_its_mean():
    """And a common t raises it: a batch of one t averages no t.

    In pairs, so that nothing but t varies.
    """
    (strata, e_s), (plain, e_p), (common, e_c) = (
        variance(directions_of(noise, RISING).mean(1), over=(1, 2, 3))
        for noise in (
            NoiseSamples(2, True, antithetic=True),
            NoiseSamples(2, antithetic=True),
            NoiseSamples(2, antithetic=True, common_time=True),
        )
    )
    assert strata + 4 * np.hypot(e_s, e_p) < plain
    assert plain + 4 * np.hypot(e_p, e_c) < common


def test_pairs_at_one_t_leave_no_noise_of_a_gaussian_prior():
    fixed = 400, 400
    left, _ = variance(directions_of(NoiseSamples(2, antithetic=True), fixed))
    assert left < 1e-6 * variance(directions_of(NoiseSamples(2), fixed))[0]
