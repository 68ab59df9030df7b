"""Stein's control variate: zero mean as corrected and not as printed, SDS as a special
case, mu's closed forms, and why mu is fitted on other noise than it is used on."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_prior import SCHEDULE, level, linear_prior, offset, slope

from sdsjax.cameras import Camera
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.stein import control_variate
from sdsjax.estimators.stein_baseline import (
    BASELINES,
    depth_loss,
    normal,
    normal_loss,
    pearson,
)
from sdsjax.estimators.stein_mu import normal_equations, optimal_mu
from sdsjax.types import Estimate, Linear, Rendering, View

T, Z = 300, np.float32([0.4, -0.7])
PHIS = {
    "constant": lambda z_t: jnp.full((), -1.0),
    "square": lambda z_t: -jnp.sum(z_t**2),
    "wave": lambda z_t: jnp.sin(3.0 * z_t[0]) * z_t[1],
    "saturated": lambda z_t: -jax.nn.sigmoid(4.0 * z_t[0] - z_t[1]),
}


def make(**hyper):
    return ESTIMATORS["stein"](SCHEDULE, **{"guidance_scale": 7.5, **hyper})


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mean_and_error(samples):
    samples = np.asarray(samples, np.float64)
    return samples.mean(0), samples.std(0, ddof=1) / np.sqrt(len(samples))


@cache
def control_variates():
    """By name, of 50 000 draws and one program."""
    alpha, sigma = level(T)

    def each(e):
        z_t = alpha * Z + sigma * e
        return {n: control_variate(phi, z_t, e, sigma)[0] for n, phi in PHIS.items()}

    return jax.jit(jax.vmap(each))(drawn(0, 50_000, 2))


@pytest.mark.parametrize("name", PHIS)
def test_every_control_variate_has_mean_zero(name):
    mean, error = mean_and_error(control_variates()[name])
    assert (np.abs(mean) < 4.5 * error).all(), mean / error


def test_the_printed_formula_fails_the_same_test():
    """z = .7, alpha = .8, sigma = .6, phi = -z_t^2: -2 alpha z (1 + sigma) = -1.792."""
    z, alpha, sigma = 0.7, 0.8, 0.6
    eps = drawn(0, 100_000, 1)
    z_t = np.float32(alpha * z + sigma * eps)
    printed = eps * -(z_t**2) + -2.0 * z_t
    corrected = jax.jit(
        jax.vmap(lambda z, e: control_variate(PHIS["square"], z, e, sigma)[0])
    )
    mean, error = mean_and_error(printed)
    assert abs(mean[0] + 1.792) < 4.5 * error[0]
    assert abs(mean[0]) > 100 * error[0]
    mean, error = mean_and_error(corrected(z_t, eps))
    assert abs(mean[0]) < 4.5 * error[0]


def test_phi_minus_one_and_mu_one_is_sds_to_the_bit():
    prior, key = linear_prior(), jax.random.key(1)
    stein, sds = make(), ESTIMATORS["sds"](SCHEDULE, guidance_scale=7.5)
    state = stein.init(prior, key, Z)
    a = stein.estimate(prior, key, state, Z, jnp.int32(T), None)
    b = sds.estimate(prior, key, (), Z, jnp.int32(T), None)
    np.testing.assert_array_equal(a.grad, b.grad)


def test_a_baseline_may_be_a_function_and_mu_zero_is_none():
    prior, key = linear_prior(), jax.random.key(1)

    def phi(prior, z_t, t, view):
        return PHIS["wave"](z_t)

    whole, none = make(baseline=phi, mu=2.0), make(baseline=phi, mu=0.0)
    a, b = (
        e.estimate(prior, key, e.init(prior, key, Z), Z, jnp.int32(T), None)
        for e in (whole, none)
    )
    cv = 2.0 * level(T)[1] ** 2 * np.asarray(a.aux["control"])
    moved = np.asarray(a.grad) - np.asarray(b.grad)
    np.testing.assert_allclose(moved, cv, rtol=1e-4, atol=1e-5)
    assert "control" not in b.aux


def learned(estimator, keys, n=4):
    """The state after len(keys) steps of n views each at one z and t."""
    prior = linear_prior()
    zs, ts = np.broadcast_to(Z, (n, 2)), np.full(n, T, np.int32)

    def step(state, key):
        def one(key):
            return estimator.estimate(prior, key, state, Z, jnp.int32(T), None)

        estimates = jax.vmap(one)(jax.random.split(key, n))
        return estimator.learn(prior, key, state, zs, ts, None, estimates, None), None

    @jax.jit
    def steps(keys):
        return jax.lax.scan(step, estimator.init(prior, keys[0], Z), keys)[0]

    return steps(keys)


@pytest.mark.parametrize("fit", ["scalar", "channel", "element"])
def test_mu_learnt_in_z_is_the_closed_form(fit):
    """cv = -eps, e_s = K eps + b: mu* = K, and then the variance vanishes."""
    gain = 7.5 * slope("cond", T) - 6.5 * slope("uncond", T)
    state = learned(make(fit=fit), jax.random.split(jax.random.key(0), 300))
    assert state.mu.shape == {"scalar": ()}.get(fit, (2,))
    # |b| / sqrt(observations): some 400 are remembered
    spread = np.abs(
        7.5 * offset("cond", T, Z) - 6.5 * offset("uncond", T, Z)
    ).max() / np.sqrt(400)
    np.testing.assert_allclose(state.mu, gain, atol=4 * spread)


def test_mu_of_other_noise_is_unbiased_and_of_the_same_noise_is_not():
    """n = 2: on its own noise the mean shrinks by 1/n, on the next step's it stays."""
    prior, estimator, n, trials = linear_prior(), make(fit="element"), 2, 20_000
    zs, ts = np.broadcast_to(Z, (n, 2)), np.full(n, T, np.int32)

    def batch(state, key):
        def one(key):
            return estimator.estimate(prior, key, state, Z, jnp.int32(T), None)

        return jax.vmap(one)(jax.random.split(key, n))

    @jax.jit
    def trial(key):
        key_fit, key_fresh = jax.random.split(key)
        state = estimator.init(prior, key, Z)
        first = batch(state, key_fit)
        guided, control = first.aux["guided"], first.aux["control"]
        ratio = (guided * control).sum(0) / (control**2).sum(0)
        same = guided - ratio * control
        state = estimator.learn(prior, key, state, zs, ts, None, first, None)
        fresh = batch(state, key_fresh).grad / SCHEDULE.sigmas[T] ** 2
        return same.mean(0), fresh.mean(0)

    truth = 7.5 * offset("cond", T, Z) - 6.5 * offset("uncond", T, Z)
    keys = jax.random.split(jax.random.key(0), trials)
    same, fresh = jax.vmap(trial)(keys)
    mean, error = mean_and_error(fresh)
    assert (np.abs(mean - truth) < 4.5 * error).all()
    mean, error = mean_and_error(same)
    np.testing.assert_allclose(mean, truth * (1 - 1 / n), atol=4.5 * error.max())
    assert (np.abs(mean - truth) > 20 * error).all()


def test_optimal_mu_shrinks_single_observations_and_guards_zero():
    """One sample of e / c has heavy tails: the ratio is drawn to the pooled one."""
    ac, cc = np.float32([-4.0, -1.0]), np.float32([1e-4, 2.0])
    optimal = jax.jit(optimal_mu)
    mu = optimal(ac, cc, np.float32(1.0))
    pooled = 5.0 / 2.0001
    assert abs(float(mu[0]) - pooled) < 0.2 * 4.0 / 1e-4
    assert 0 < float(mu[1]) < pooled + 1
    # ten observations of the mean cc = 1.00005 and of the pooled ratio
    ten = 10.0 * 1.00005
    want = [(pooled * ten + 4.0) / (1e-4 + ten), (pooled * ten + 1.0) / (2.0 + ten)]
    np.testing.assert_allclose(mu, want, rtol=1e-5)
    np.testing.assert_allclose(
        optimal(1e6 * ac[1:], 1e6 * cc[1:], np.float32(1e6)), 0.5, rtol=1e-4
    )
    np.testing.assert_array_equal(optimal(0 * ac, 0 * cc, np.float32(0.0)), 0.0)


def renderer(shape, seed=0):
    """Linear maps of a random Jacobian [theta, z]: g -> J^T g summed over views."""
    size = int(np.prod(shape))
    matrix = drawn(seed, 5, size) / np.float32(np.sqrt(size))

    def pullback(g):
        return {"theta": matrix @ g.reshape(-1, size).sum(0)}

    def pushforward(d):
        return (matrix.T @ d["theta"]).reshape(1, *shape)

    return matrix, Linear(pullback, pushforward)


def one_step(fit, a, c, linear, mu=0.0, steps=1, **hyper):
    """What `learn` makes of estimates with e_s = a and cv = c [n ...]."""
    estimator = make(fit=fit, fit_space="theta", mu=mu, weighting="one", **hyper)
    estimates = Estimate(a, {"guided": a, "control": c})
    ts = np.full(a.shape[0], T, np.int32)

    def step(state, _):
        new = estimator.learn(None, None, state, a, ts, None, estimates, linear)
        return new, None

    @jax.jit
    def learnt():
        state = estimator.init(linear_prior(), jax.random.key(0), a[0])
        return jax.lax.scan(step, state, None, length=steps)[0].mu

    return np.asarray(learnt())


@pytest.mark.parametrize("fit", ["scalar", "channel"])
def test_mu_through_the_renderer_is_least_squares(fit):
    """The argmin of |J^T (a + mu c)|^2, eq. 11, from numpy's lstsq."""
    shape = (3, 2, 2)
    a, c = drawn(1, 2, 3, *shape)
    matrix, linear = renderer(shape)
    mu = one_step(fit, a, c, linear)
    parts = [c] if fit == "scalar" else [c * np.eye(2)[i] for i in range(2)]
    columns = [matrix @ p.reshape(3, -1).sum(0) for p in parts]
    target = matrix @ a.reshape(3, -1).sum(0)
    wanted = np.linalg.lstsq(np.stack(columns, 1), -target, rcond=None)[0]
    assert mu.shape == ((), (1, 1, 2))[fit == "channel"]
    np.testing.assert_allclose(mu.reshape(-1), wanted, rtol=1e-3, atol=1e-4)


def test_elements_through_the_renderer_lower_the_second_moment():
    """Adam along 2 c J J^T (a + mu c): the pulled-back norm falls to near nothing."""
    shape = (3, 2, 2)
    a, c = drawn(1, 2, 3, *shape)
    matrix, linear = renderer(shape)
    mu = one_step("element", a, c, linear, steps=400, mu_lr=0.03)
    pulled = [matrix @ (a + m * c).reshape(3, -1).sum(0) for m in (0.0, mu)]
    before, after = (float(np.linalg.norm(p)) for p in pulled)
    assert mu.shape == shape
    assert after < 0.05 * before


def test_normal_equations_are_inner_products():
    shape = (3, 2, 2)
    a, c = drawn(1, 2, 3, *shape)
    matrix, linear = renderer(shape)
    basis = np.eye(2, dtype=np.float32).reshape(2, 1, 1, 1, 2)
    out = jax.jit(lambda *at: normal_equations(linear.pullback, *at))(a, c, basis)
    out = jax.device_get(out)
    assert out.matrix.shape == (2, 2)
    np.testing.assert_allclose(out.matrix, out.matrix.T, rtol=1e-5)
    assert (np.linalg.eigvalsh(out.matrix) > -1e-5).all()
    total = matrix @ c.reshape(3, -1).sum(0)
    np.testing.assert_allclose(out.matrix.sum(), (total**2).sum(), rtol=1e-3)


def test_pearson_against_numpy_and_on_flat_images():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 6)).astype("f4")
    mask = (np.random.default_rng(1).random((6, 6)) > 0.4).astype("f4")
    chosen = mask > 0
    wanted = np.corrcoef(a[chosen], b[chosen])[0, 1]
    both = jax.jit(jax.value_and_grad(pearson, argnums=1))
    np.testing.assert_allclose(both(a, b, mask)[0], wanted, rtol=1e-4)
    for flat in (np.zeros((6, 6), "f4"), np.ones((6, 6), "f4")):
        value, slopes = both(a, flat, mask)
        assert value == 0
        assert np.isfinite(slopes).all()
    assert np.isfinite(both(a, b, 0 * mask)[1]).all()


LOSSES = depth_loss, normal_loss


def test_the_losses_vanish_where_they_should():
    rng, of_depth, of_normal = np.random.default_rng(0), *map(jax.jit, LOSSES)
    depth = (2.0 + rng.random((8, 8))).astype(np.float32)
    opacity = np.ones((8, 8), np.float32)
    opacity[0] = 0.2
    assert abs(float(of_depth(depth, opacity, 3.0 / depth + 1.0))) < 1e-4
    assert abs(float(of_depth(depth, opacity, -1.0 / depth)) - 2.0) < 1e-4
    drawn = rng.normal(size=(8, 8, 3)).astype(np.float32)
    assert abs(float(of_normal(drawn, opacity, 5.0 * drawn))) < 1e-5
    assert float(of_normal(drawn, 0 * opacity, drawn)) == 1.0
    # a row that runs against the estimate counts where it is more than half opaque
    against = drawn.copy()
    against[0] *= -1
    for opaque, share in ((0.49, 0.0), (0.5, 0.0), (0.51, 1 / 8)):
        opacity[0] = opaque
        loss = of_normal(drawn, opacity, against)
        np.testing.assert_allclose(loss, 2 * share, atol=1e-5)
    grad = jax.jit(jax.grad(normal_loss, argnums=2))(drawn, opacity, 0 * drawn)
    assert np.isfinite(grad).all()


def seen(shape=(8, 8)):
    """A view of a slanted plate and the prior whose monocular estimate reads it off."""
    turn = np.float32([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    matrix, ones = np.eye(4, dtype=np.float32), np.ones(2, np.float32)
    matrix[:3, :3] = turn
    camera = Camera(matrix, ones, ones, shape[1], shape[0])
    depth = np.float32(np.broadcast_to(np.linspace(2.0, 3.0, shape[1]), shape))
    sideways = np.broadcast_to(np.float32([1.0, 0.0, 0.0]), (*shape, 3))
    blank, opaque = np.zeros((*shape, 3), np.float32), np.ones(shape, np.float32)
    rendering = Rendering(blank, opaque, depth, sideways)

    def monocular(x):
        second = x[..., 1]
        return x[..., 0], jnp.stack([second, 0 * second, 1 - second], -1)

    prior = linear_prior()._replace(decode=lambda z: z, monocular=monocular)
    return View(camera, rendering), prior, turn


@pytest.mark.parametrize("baseline", ["depth", "normal"])
def test_depth_and_normals_give_zero_mean_control_variates(baseline):
    """Image-sized, through a decoder and a monocular estimate; any resolution."""
    view, prior, _ = seen()
    estimator = make(baseline=baseline, weighting="one")
    z = np.float32(0.3) * drawn(2, 4, 4, 2)
    alpha, sigma = level(T)
    estimator.init(prior, jax.random.key(0), z)
    eps = drawn(0, 20_000, *z.shape)

    def draw(e):
        def phi(z_t):
            return BASELINES[baseline](prior, z_t, jnp.int32(T), view)

        return control_variate(phi, alpha * z + sigma * e, e, sigma)

    # in pieces: XLA's CPU backend repeats rows of a larger batch (jaxlib 0.10.2)
    run = jax.jit(lambda e: jax.lax.map(draw, e, batch_size=1000))
    cv, phi = jax.device_get(run(eps))
    assert ((phi <= 0) & (phi >= -2)).all()
    mean, error = mean_and_error(cv)
    assert (np.abs(mean) < 5 * error).all()
    assert float(cv.std()) > 0.1


def test_normals_are_compared_in_the_cameras_frame():
    view, prior, turn = seen()
    in_camera = turn @ np.float32([1.0, 0.0, 0.0])
    estimate = np.broadcast_to(in_camera, (8, 8, 3))
    prior = prior._replace(monocular=lambda x: (x[..., 0], estimate))
    value = jax.jit(lambda z: normal(prior, z, jnp.int32(T), view))(
        np.zeros((8, 8, 2), np.float32)
    )
    assert abs(float(value)) < 1e-5


@pytest.mark.parametrize("baseline", ["depth", "normal"])
def test_what_a_baseline_lacks_is_said_at_once(baseline):
    estimator, prior = make(baseline=baseline), linear_prior()
    with pytest.raises(ValueError, match="monocular"):
        estimator.init(prior, jax.random.key(0), Z)
    _, able, _ = seen()
    with pytest.raises(ValueError, match="decoder"):
        estimator.init(able._replace(decode=None), jax.random.key(0), Z)
    state = estimator.init(able, jax.random.key(0), Z)
    with pytest.raises(ValueError, match="rendering"):
        estimator.estimate(able, jax.random.key(0), state, Z, jnp.int32(T), None)
