"""Estimators: one contract for all, closed forms on exact priors, identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule, alpha_sigma
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.ssd import projection_ratio
from sdsjax.priors import gaussian_mixture

SCHEDULE = NoiseSchedule.scaled_linear()
HYPER = {"sds": {"guidance_scale": 7.5}, "ssd": {"threshold": 400}}
SHAPE = (4, 4, 3)


def prior(tau2=0.3, shape=SHAPE):
    """N(1, tau2) with the prompt, an equal mixture with N(-1, tau2) without."""
    means = jnp.stack([jnp.ones(shape), -jnp.ones(shape)])
    return gaussian_mixture(SCHEDULE, [1.0, 1.0], means, [tau2, tau2], [True, False])


def make(name, **extra):
    return ESTIMATORS[name](SCHEDULE, **(HYPER[name] | extra))


def run(estimator, key, z, t, p=None):
    p = p or prior(shape=z.shape)
    state = estimator.init(p, jax.random.key(9), z)
    return estimator.estimate(p, key, state, z, jnp.int32(t), None)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_contract_shape_dtype_and_determinism(name):
    z = jax.random.normal(jax.random.key(0), SHAPE)
    estimator = make(name)
    a, b = (run(estimator, jax.random.key(1), z, 300) for _ in range(2))
    other = run(estimator, jax.random.key(2), z, 300)
    assert a.grad.shape == z.shape
    assert a.grad.dtype == z.dtype
    assert all(v.dtype == z.dtype for v in a.aux.values())
    np.testing.assert_array_equal(a.grad, b.grad)
    assert not np.allclose(a.grad, other.grad)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_contract_half_precision_is_kept(name):
    z = jnp.ones(SHAPE, jnp.bfloat16)
    assert run(make(name), jax.random.key(1), z, 300).grad.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ESTIMATORS)
def test_contract_vmap_is_the_loop_and_traces_once(name):
    estimator, p, traces = make(name), prior(), []
    zs = jax.random.normal(jax.random.key(0), (5, *SHAPE))
    keys = jax.random.split(jax.random.key(1), 5)
    ts = jnp.array([20, 200, 400, 401, 980])

    @jax.jit
    def batch(keys, zs, ts):
        traces.append(1)
        state = estimator.init(p, keys[0], zs[0])
        return jax.vmap(lambda k, z, t: estimator.estimate(p, k, state, z, t, None))(
            keys, zs, ts
        )

    both = [batch(keys, zs, ts), batch(keys, zs + 1, ts)]
    for i in range(5):
        alone = run(estimator, keys[i], zs[i], ts[i], p)
        np.testing.assert_allclose(both[0].grad[i], alone.grad, rtol=2e-5, atol=2e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("name", ESTIMATORS)
def test_contract_equal_keys_mean_equal_noise(name):
    """estimate draws eps = normal(split(key)[0]): what the prior is shown proves it."""
    seen, z = [], jax.random.normal(jax.random.key(0), SHAPE)
    exact = prior()

    def spy(z_t, t, view, branches=("cond", "uncond")):
        seen.append(z_t)
        return exact.noise(z_t, t, view, branches)

    key = jax.random.key(3)
    run(make(name), key, z, 300, exact._replace(noise=spy))
    eps = jax.random.normal(jax.random.split(key)[0], z.shape, z.dtype)
    alpha, sigma = alpha_sigma(SCHEDULE, 300)
    np.testing.assert_array_equal(seen[0], alpha * z + sigma * eps)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_contract_weight_multiplies_the_direction(name):
    z, key = jax.random.normal(jax.random.key(0), SHAPE), jax.random.key(1)
    one = run(make(name, weighting="one"), key, z, 300).grad
    sigma2 = run(make(name, weighting="sigma2"), key, z, 300).grad
    custom = run(make(name, weighting=lambda a, s: 3.0 * a), key, z, 300).grad
    alpha, sigma = alpha_sigma(SCHEDULE, 300)
    np.testing.assert_allclose(sigma2, sigma**2 * one, rtol=1e-5)
    np.testing.assert_allclose(custom, 3 * alpha * one, rtol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_unknown_weighting_names_the_choices(name):
    with pytest.raises(ValueError, match="sigma2"):
        make(name, weighting="sigma")


def test_sds_mean_and_variance_on_a_gaussian():
    """One Gaussian N(m, tau2): e = k eps + alpha k (z - m)/sigma, k = sigma^2/(alpha^2
    tau2 + sigma^2), so E[sds] = k alpha (z - m)/sigma and Var = (k - 1)^2."""
    tau2, t, count = 0.3, 300, 20000
    p = gaussian_mixture(SCHEDULE, [1.0], jnp.ones((1, 2)), [tau2], [True])
    estimator = ESTIMATORS["sds"](SCHEDULE, guidance_scale=1.0, weighting="one")
    z = jnp.array([0.4, -0.7])
    keys = jax.random.split(jax.random.key(0), count)
    grads = jax.vmap(lambda k: run(estimator, k, z, t, p).grad)(keys)
    alpha, sigma = (float(v) for v in alpha_sigma(SCHEDULE, t))
    k = sigma**2 / (alpha**2 * tau2 + sigma**2)
    error = np.abs(grads.mean(0) - k * alpha * (z - 1.0) / sigma)
    assert (error < 4 * abs(k - 1) / np.sqrt(count)).all()
    np.testing.assert_allclose(grads.var(0, ddof=1), (k - 1) ** 2, rtol=0.05)


@pytest.mark.parametrize("omega", [0.0, 6.5, 100.0])
def test_sds_is_the_three_terms(omega):
    """e_s - eps = omega h + e_y - eps with omega = s - 1 (SSD eq. 4)."""
    z, key, t = jax.random.normal(jax.random.key(0), SHAPE), jax.random.key(1), 200
    p = prior()
    estimator = ESTIMATORS["sds"](SCHEDULE, guidance_scale=omega + 1, weighting="one")
    eps = jax.random.normal(jax.random.split(key)[0], z.shape)
    alpha, sigma = alpha_sigma(SCHEDULE, t)
    e = p.noise(alpha * z + sigma * eps, t)
    terms = omega * (e.cond - e.uncond) + e.cond - eps
    np.testing.assert_allclose(
        run(estimator, key, z, t, p).grad, terms, rtol=1e-4, atol=1e-4
    )


def test_ssd_above_the_threshold_is_h_and_below_is_scaled_to_it():
    z, key, p = jax.random.normal(jax.random.key(0), SHAPE), jax.random.key(1), prior()
    for t, seeking in [(400, True), (401, False)]:
        estimate = run(make("ssd", weighting="one"), key, z, t, p)
        eps = jax.random.normal(jax.random.split(key)[0], z.shape)
        alpha, sigma = alpha_sigma(SCHEDULE, t)
        e = p.noise(alpha * z + sigma * eps, t)
        h = e.cond - e.uncond
        assert bool(estimate.aux["seeking"]) == seeking
        np.testing.assert_allclose(
            jnp.linalg.norm(estimate.grad), jnp.linalg.norm(h), rtol=1e-5
        )
        if seeking:
            assert abs(jnp.sum(estimate.grad * eps)) < 1e-3  # r eps is projected out
        else:
            np.testing.assert_array_equal(estimate.grad, h)


def test_ssd_ablations_are_what_they_say():
    z, key, t, p = jnp.full(SHAPE, 0.3), jax.random.key(1), 100, prior()
    eps = jax.random.normal(jax.random.split(key)[0], z.shape)
    alpha, sigma = alpha_sigma(SCHEDULE, t)
    cond = p.noise(alpha * z + sigma * eps, t).cond
    plain = {"weighting": "one", "rescale": False}
    r = projection_ratio(cond, eps)
    for reduction, ratio in [("none", 0.0), ("sds", 1.0), ("adaptive", r)]:
        grad = run(make("ssd", reduction=reduction, **plain), key, z, t, p).grad
        np.testing.assert_allclose(grad, cond - ratio * eps, rtol=1e-5, atol=1e-6)


def test_ssd_reduced_term_loses_one_dimension_of_signal():
    """E[e~] = (1 - 1/d) E[e_y] for e_y = k eps + c: r removes c's part along eps."""
    d, count = 3, 40000
    c = jnp.array([1.0, 0.0, 0.0])
    eps = jax.random.normal(jax.random.key(0), (count, d))
    e = 0.4 * eps + c
    reduced = e - jax.vmap(projection_ratio)(e, eps)[:, None] * eps
    np.testing.assert_allclose(reduced.mean(0)[0], 1 - 1 / d, atol=0.01)


def test_ssd_guards_zero_over_zero():
    """The unconditional and the conditional prior are one point at z: h = 0."""
    p = gaussian_mixture(SCHEDULE, [1.0], jnp.zeros((1, 2)), [0.1], [True])
    zero = p._replace(
        noise=lambda z, t, v, branches=(): p.noise(0 * z, t, v)  # e_y = 0 exactly
    )
    grad = run(make("ssd"), jax.random.key(0), jnp.zeros(2), 100, zero).grad
    np.testing.assert_array_equal(grad, jnp.zeros(2))


def test_ssd_rejects_what_it_cannot_do():
    with pytest.raises(TypeError, match="threshold"):
        ESTIMATORS["ssd"](SCHEDULE)
    with pytest.raises(ValueError, match="adaptive"):
        make("ssd", reduction="half")
    with pytest.raises(ValueError, match="threshold"):
        make("ssd", threshold=-1)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_contract_strict_promotion(name):
    """No silent widening of types or ranks anywhere between z and the gradient."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (jnp.float32, jnp.bfloat16):
            grad = run(make(name), jax.random.key(1), jnp.ones(SHAPE, dtype), 300).grad
            assert grad.dtype == dtype


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_weighting_may_be_a_constant(name):
    z, key = jnp.ones(SHAPE), jax.random.key(1)
    one = run(make(name, weighting="one"), key, z, 300).grad
    two = run(make(name, weighting=lambda alpha, sigma: 2.0), key, z, 300).grad
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
