"""The L2 forms: SDS as the gradient of a loss, many denoising steps, the image's side
of it, and the combinator around other estimators."""

import inspect
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_prior import MEANS, SCHEDULE, VARIANCES, gaussian_noise, level, linear_prior

from sdsjax.diffusion import denoised, guide
from sdsjax.estimators import ESTIMATORS, image_space
from sdsjax.estimators.denoised_l2 import denoise
from sdsjax.priors import empirical
from sdsjax.types import Rendering, View

Z, KEY, T = np.float32([0.4, -0.7]), jax.random.key(1), jnp.int32(300)


def estimate(factory, prior, z=Z, t=T, view=None, **hyper):
    estimator = factory(SCHEDULE, **hyper)
    state = estimator.init(prior, KEY, z)
    return estimator.estimate(prior, KEY, state, z, t, view)


def zhat_of(prior, z, t, scale):
    eps = jax.random.normal(jax.random.split(KEY)[0], z.shape)
    z_t = SCHEDULE.alphas[t] * z + SCHEDULE.sigmas[t] * eps
    e = prior.noise(z_t, t, None)
    return denoised(SCHEDULE, z_t, guide(e.cond, e.uncond, scale), t)


@cache
def l2_and_sds():
    """t -> (denoised_l2's gradient, SDS's, that of the loss, both unweighted), of one
    program for every t."""
    prior = linear_prior()

    def grad(name, t, **hyper):
        return estimate(ESTIMATORS[name], prior, t=t, **hyper).grad

    @jax.jit
    def at(t):
        alpha, sigma = (schedule[t] for schedule in SCHEDULE)

        def loss(z):
            target = jax.lax.stop_gradient(zhat_of(prior, z, t, 7.5))
            return 0.5 * sigma * alpha * jnp.sum((z - target) ** 2)

        pair = {"sds": "one", "denoised_l2": "alpha_over_sigma"}
        return (
            *(grad(name, t, guidance_scale=7.5) for name in ("denoised_l2", "sds")),
            jax.grad(loss)(Z),
            *(grad(name, t, weighting=w) for name, w in pair.items()),
        )

    return at


@pytest.mark.parametrize("t", [20, 300, 980])
def test_sds_is_the_gradient_of_the_denoised_l2_loss(t):
    """sigma_alpha: grad = d/dz w |z - sg(zhat)|^2 / 2, and SDS at sigma2."""
    l2, sds, of_loss, a, b = l2_and_sds()(np.int32(t))
    np.testing.assert_allclose(l2, of_loss, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(l2, sds, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_sds_plus_is_image_space_of_denoised_l2():
    prior = linear_prior()
    other = image_space(ESTIMATORS["denoised_l2"])
    for hyper in ({}, {"steps": 3}, {"lambda_rgb": 0.2, "lambda_latent": 0.5}):
        a = estimate(ESTIMATORS["sds_plus"], prior, guidance_scale=7.5, **hyper)
        b = estimate(other, prior, guidance_scale=7.5, **hyper)
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_both_gradients_are_those_of_hifas_loss():
    """w (|z - zhat|^2 + lambda |x - D(zhat)|^2) / 2 with D(z) = tanh, x its own."""
    prior = linear_prior()._replace(decode=jnp.tanh)
    alpha, sigma = (schedule[T] for schedule in SCHEDULE)
    target = zhat_of(prior, Z, T, 7.5)

    def loss(z, x):
        latent, image = jnp.sum((z - target) ** 2), jnp.sum((x - jnp.tanh(target)) ** 2)
        return 0.5 * sigma * alpha * (0.5 * latent + 0.025 * image)

    wanted = jax.jit(jax.grad(loss, (0, 1)))(Z, np.tanh(Z))
    got = estimate(ESTIMATORS["sds_plus"], prior, guidance_scale=7.5, lambda_latent=0.5)
    np.testing.assert_allclose(got.grad, wanted[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.image_grad, wanted[1], rtol=1e-4, atol=1e-6)


def test_the_image_is_what_was_rendered():
    """x = 2 rgb - 1, brought to the decoded image's size."""
    shape, prior = (4, 4, 2), linear_prior()

    @jax.jit
    def images(z):
        return [
            estimate(ESTIMATORS["sds_plus"], prior, z, view=v, weighting="one")
            for v in (*map(view_of, (4, 8)), None)
        ]

    def view_of(size):
        blank = np.zeros((size, size), np.float32)
        rgb = np.full((size, size, 2), 0.75, np.float32)
        return View(None, Rendering(rgb, blank, blank, blank))

    *rendered, plain = (out.image_grad for out in images(np.zeros(shape, np.float32)))
    for image in rendered:
        assert image.shape == shape
        np.testing.assert_allclose(
            np.asarray(image) - np.asarray(plain), 0.025 * 0.5, rtol=1e-3, atol=1e-4
        )


def test_without_an_image_loss_nothing_is_decoded():
    def refuse(z):
        raise AssertionError("decoded although lambda_rgb = 0")

    prior = linear_prior()._replace(decode=refuse)
    out = estimate(ESTIMATORS["sds_plus"], prior, lambda_rgb=0.0, guidance_scale=7.5)
    l2 = estimate(ESTIMATORS["denoised_l2"], prior, guidance_scale=7.5)
    assert out.image_grad is None
    np.testing.assert_allclose(out.grad, l2.grad, rtol=1e-5)


@cache
def denoised_in():
    """(z_t, t) -> zhat in 1 to 4 deterministic steps of 250, of one program."""
    prior = linear_prior()

    def predict(z_tau, tau):
        return prior.noise(z_tau, tau).cond

    @jax.jit
    def of(z_t, t):
        plan = {"stride": 250, "eta": 0.0}
        return {
            n: denoise(SCHEDULE, predict, KEY, z_t, t, steps=n, **plan)
            for n in (1, 2, 3, 4)
        }

    return of


@pytest.mark.parametrize(("t", "calls"), [(980, 4), (300, 2), (249, 1), (999, 4)])
def test_the_number_of_denoising_calls(t, calls):
    """tau = t, t - 250, ... >= 0; static 4, masked: 4 steps are `calls` steps."""
    z_t = np.float32([0.3, 1.0])
    found = denoised_in()(z_t, np.int32(t))
    four, exact, fewer = (found[n] for n in (4, calls, max(1, calls - 1)))
    np.testing.assert_allclose(four, exact, rtol=1e-6)
    wanted = np.asarray(z_t, np.float64)
    for i in range(calls):
        tau, after = t - 250 * i, t - 250 * (i + 1)
        alpha, sigma = level(tau)
        mean = np.asarray(MEANS["cond"])
        e = gaussian_noise(wanted, alpha, sigma, mean, VARIANCES["cond"])
        zhat = (wanted - sigma * e) / alpha
        last = i == calls - 1
        wanted = zhat if last else level(after)[0] * zhat + level(after)[1] * e
    np.testing.assert_allclose(four, wanted, rtol=1e-3, atol=1e-4)
    assert calls == 1 or not np.allclose(four, fewer, atol=1e-3)


def test_the_last_of_the_steps_lands_on_z_wherever_it_starts():
    """Two steps from 980: to 730 and from there to z_0, not to 480."""
    z_t = np.float32([0.3, 1.0])
    zhat = denoised_in()(z_t, np.int32(980))[2]
    wanted, mean = np.asarray(z_t, np.float64), np.asarray(MEANS["cond"])
    for tau, (alpha_next, sigma_next) in ((980, level(730)), (730, (1.0, 0.0))):
        alpha, sigma = level(tau)
        e = gaussian_noise(wanted, alpha, sigma, mean, VARIANCES["cond"])
        wanted = alpha_next * (wanted - sigma * e) / alpha + sigma_next * e
    np.testing.assert_allclose(zhat, wanted, rtol=1e-3, atol=1e-4)


@cache
def denoised_image():
    """An image, and eta -> what four steps make of noise where it is all there is."""
    image = np.random.default_rng(0).uniform(-1.0, 1.0, (1, 4, 4, 3)).astype("f4")
    prior = empirical(SCHEDULE, image, [True])
    z_t = np.random.default_rng(1).normal(size=(4, 4, 3)).astype("f4")

    def predict(z_tau, tau):
        return prior.noise(z_tau, tau).cond

    @jax.jit
    def of(eta):
        plan = {"steps": 4, "stride": 250, "eta": eta}
        return denoise(SCHEDULE, predict, KEY, z_t, jnp.int32(980), **plan)

    return image[0], of


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_denoising_an_empirical_prior_of_one_image_returns_it(eta):
    """The optimal denoiser knows one image: whatever the noise, zhat is that image."""
    image, of = denoised_image()
    np.testing.assert_allclose(of(eta), image, atol=2e-3)


def test_ancestral_steps_have_the_variance_they_should():
    """eta 1 on N(0, 1), where e = g z, g = sigma / (alpha^2 + sigma^2): Var z' =
    (alpha' (1 - sigma g) / alpha + kept g)^2 Var z + fresh^2. By Bayes on z' -> z, of
    noise v = sigma^2 - (alpha/alpha')^2 sigma'^2 (1 - (alpha/alpha')^2 where variance
    is preserved: DDIM eqs. 12 and 16), fresh^2 = sigma'^2 v / sigma^2 and kept^2 =
    sigma'^2 - fresh^2; and the last step is zhat."""

    def gain_at(alpha, sigma):
        return sigma / (alpha**2 + sigma**2)

    def predict(z_tau, tau):
        return gain_at(SCHEDULE.alphas[tau], SCHEDULE.sigmas[tau]) * z_tau

    def draw(key):
        key_z, key_xi = jax.random.split(key)
        z_t = jax.random.normal(key_z, (8,))
        plan = {"steps": 4, "stride": 250, "eta": 1.0}
        return denoise(SCHEDULE, predict, key_xi, z_t, jnp.int32(980), **plan)

    zhat = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4000))
    variance, times = 1.0, [980, 730, 480, 230]
    for t, after in pairwise(times):
        (alpha, sigma), (alpha_next, sigma_next) = level(t), level(after)
        noise = sigma**2 - (alpha / alpha_next * sigma_next) ** 2
        fresh = sigma_next * np.sqrt(noise) / sigma
        kept = np.sqrt(sigma_next**2 - fresh**2)
        g = gain_at(alpha, sigma)
        gain = alpha_next * (1 - sigma * g) / alpha + kept * g
        variance = gain**2 * variance + fresh**2
    alpha, sigma = level(230)
    last = (1 - sigma * gain_at(alpha, sigma)) / alpha
    # 32 000 samples of a Gaussian: relative standard error sqrt(2/n) = .8%
    np.testing.assert_allclose(np.var(zhat), last**2 * variance, rtol=0.04)


BASES = ("sds", "ssd", "vsd", "stein", "csd", "ism")


@cache
def with_and_without():
    """By base: its unweighted gradient, and the estimate of image_space around it."""
    prior = linear_prior()

    def pair(name):
        base, hyper = ESTIMATORS[name], {"weighting": "one"}
        hyper |= {"threshold": 400.0} if name == "ssd" else {}
        around = image_space(base)
        return (
            estimate(base, prior, **hyper).grad,
            estimate(around, prior, lambda_rgb=0.1, **hyper),
        )

    return jax.device_get(jax.jit(lambda: {name: pair(name) for name in BASES})())


@pytest.mark.parametrize("name", BASES)
def test_image_space_around_any_estimator(name):
    """zhat = z - (sigma / alpha) d, d the base's unweighted direction."""
    base, (d, out) = ESTIMATORS[name], with_and_without()[name]
    alpha, sigma = level(int(T))
    np.testing.assert_allclose(out.grad, sigma / alpha * d, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.image_grad, 0.1 * out.grad, rtol=1e-4, atol=1e-5)
    taken = inspect.signature(image_space(base)).parameters
    assert {*inspect.signature(base).parameters, "lambda_rgb"} <= set(taken)


@pytest.mark.slow
def test_a_base_learns_from_the_gradient_that_is_applied():
    """stein at sigma2 and image_space(stein) at sigma_alpha are one gradient, so that
    their mu is the same."""
    states = []
    for factory in (ESTIMATORS["stein"], image_space(ESTIMATORS["stein"])):
        prior, estimator = linear_prior(), factory(SCHEDULE, fit="element")
        state = estimator.init(prior, KEY, Z)
        ts, keys = jnp.array([100, 700]), jax.random.split(KEY)

        def one(key, t, prior=prior, estimator=estimator, state=state):
            return estimator.estimate(prior, key, state, Z, t, None)

        estimates = jax.vmap(one)(keys, ts)
        zs = jnp.stack([Z, Z])
        states.append(estimator.learn(prior, KEY, state, zs, ts, None, estimates, None))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), states[0], states[1]
    )
    assert float(jnp.abs(states[0].mu - 1.0).max()) > 0.1


def test_only_factories_are_combined():
    with pytest.raises(TypeError, match="factory"):
        image_space(ESTIMATORS["sds"](SCHEDULE))
