"""Means and variances of every estimator against closed forms, within confidence
intervals, on a prior whose predictions are affine in the noise; variance preserving and
with flow matching (tests/conftest.py)."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_prior import SCHEDULE, level, linear_prior, offset, slope

from sdsjax.estimators import ESTIMATORS
from sdsjax.priors.gaussian_mixture import AffineAdapter

COUNT, T = 20_000, 300
Z = np.float32([0.4, -0.7])
PSI = AffineAdapter(np.float32([0.3, 0.1]), np.float32(np.log(0.5)))
# direction = sum of weights * e + noise * eps: (cond, uncond, negative, noise)
LINEAR = {
    "sds": ({"guidance_scale": 7.5}, (7.5, -6.5, 0.0, -1.0)),
    "sds at s = 1": ({"guidance_scale": 1.0}, (1.0, 0.0, 0.0, -1.0)),
    "mode_seeking": ({}, (1.0, 0.0, 0.0, 0.0)),
    "mode_seeking_sds": ({}, (1.0, 0.0, 0.0, -1.0)),
    "mode_disengaging": ({}, (1.0, -1.0, 0.0, 0.0)),
    "ssd above M": ({"threshold": T - 1}, (1.0, -1.0, 0.0, 0.0)),
    "csd": ({}, (1.0, -1.0, 0.0, 0.0)),
    "csd negative": ({"negative": -0.4, "negative_end": -0.4}, (1.0, -0.6, -0.4, 0.0)),
    "nfsd late": ({"switch_time": T}, (7.5, -6.5, -1.0, 0.0)),
    "nfsd early": ({"switch_time": T + 1}, (7.5, -6.5, 0.0, 0.0)),
    "stein": ({"guidance_scale": 7.5, "mu": 0.6}, (7.5, -6.5, 0.0, -0.6)),
}


GUIDED = (("guidance_scale", 7.5),)
# Several are one program: what they have in common, the noise and e, is compiled once.
DRAWN = [(case.split()[0], tuple(hyper.items())) for case, (hyper, _) in LINEAR.items()]
DRAWN += [(name, GUIDED) for name in ("vsd", "denoised_l2", "sds_plus")]
DRAWN += [("mode_seeking_adaptive", ())]


@cache
def drawing(programs):
    """(schedule, keys) -> grads [n 2] at w = 1 of each; vsd's adapter is PSI."""

    def grad(schedule, prior, name, hyper, key):
        estimator = ESTIMATORS[name](schedule, weighting="one", **dict(hyper))
        state = estimator.init(prior, jax.random.key(9), Z)
        if name == "vsd":
            state = state._replace(psi=PSI)
        return estimator.estimate(prior, key, state, Z, jnp.int32(T), None).grad

    @jax.jit
    def draw(schedule, keys):
        at = schedule, linear_prior(schedule)
        return {each: jax.vmap(partial(grad, *at, *each))(keys) for each in programs}

    return draw


# One program for every schedule.
SHARED = (drawing,)


@cache
def drawn(programs):
    """The grads [COUNT 2] of `programs`, on the schedule of this pass."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    grads = jax.device_get(drawing(programs)(SCHEDULE, keys))
    return {each: np.asarray(found, np.float64) for each, found in grads.items()}


def samples(name, hyper):
    """grads [COUNT 2] on the schedule of this pass."""
    each = name, tuple(hyper.items())
    first = DRAWN.index(each) // 5 * 5
    return drawn(tuple(DRAWN[first : first + 5]))[each]


def check(grads, mean, variance):
    """The sample's mean within 4.5 standard errors, its variance within 5 (relative
    standard error sqrt(2/n) for a Gaussian)."""
    error = np.abs(grads.mean(0) - mean)
    assert (error <= 4.5 * np.sqrt(variance / COUNT) + 1e-5).all(), (error, variance)
    tolerance = 5 * np.sqrt(2 / COUNT)
    np.testing.assert_allclose(
        grads.var(0, ddof=1), variance, rtol=tolerance, atol=1e-9
    )


@pytest.mark.parametrize("case", LINEAR)
def test_mean_and_variance(case):
    hyper, (*weights, noise) = LINEAR[case]
    branches = ("cond", "uncond", "negative")
    mean = sum(w * offset(b, T, Z) for w, b in zip(weights, branches))
    gain = sum(w * slope(b, T) for w, b in zip(weights, branches)) + noise
    check(samples(case.split()[0], hyper), mean, gain**2)


def test_vsd_mean_and_variance_with_an_unconverged_psi():
    """Its mean is not SDS's: the difference is E[e_psi], the bias that psi brings."""
    alpha, sigma = level(T)
    k = sigma**2 / (alpha**2 * 0.5 + sigma**2)
    drawn = k * alpha * (np.asarray(Z) - np.asarray(PSI.mean)) / sigma
    gain = 7.5 * slope("cond", T) - 6.5 * slope("uncond", T) - k
    mean = 7.5 * offset("cond", T, Z) - 6.5 * offset("uncond", T, Z) - drawn
    check(samples("vsd", {"guidance_scale": 7.5}), mean, gain**2)


def test_the_l2_forms_are_sds_times_sigma_over_alpha():
    alpha, sigma = level(T)
    base = samples("sds", {"guidance_scale": 7.5})
    for name in ("denoised_l2", "sds_plus"):
        grads = samples(name, {"guidance_scale": 7.5})
        np.testing.assert_allclose(grads, sigma / alpha * base, rtol=1e-4, atol=1e-5)


def test_the_adaptive_reduction_loses_one_dimension_of_the_signal():
    """e = k eps + b, so e - r eps = b - <b, eps>/|eps|^2 eps: mean (1 - 1/d) b and
    total variance |b|^2 (1 - 1/d)/d, free of k."""
    b, d = offset("cond", T, Z), 2
    grads = samples("mode_seeking_adaptive", {})
    total = (b @ b) * (1 - 1 / d) / d
    error = np.abs(grads.mean(0) - (1 - 1 / d) * b)
    assert (error < 4.5 * np.sqrt(total / COUNT)).all()
    np.testing.assert_allclose(grads.var(0, ddof=1).sum(), total, rtol=0.03)


def test_subtracting_eps_helps_only_where_k_is_above_a_half():
    """Var e = k^2, Var(e - eps) = (1 - k)^2; the sign printed in eqs. 1, 5 and 18 of
    SteinDreamer gives (1 + k)^2. At k = .424: .180, .331 and 2.03."""
    for t, helps in [(100, False), (600, True)]:
        k = slope("cond", t)
        assert (k > 0.5) == helps == ((1 - k) ** 2 < k**2)
    tau2, alpha2 = 1.0, 1 / (1 + 0.424 / 0.576)
    k = (1 - alpha2) / (alpha2 * tau2 + 1 - alpha2)
    np.testing.assert_allclose(
        [k**2, (1 - k) ** 2, (1 + k) ** 2], [0.180, 0.331, 2.03], atol=3e-3
    )
    plain, reduced = samples("mode_seeking", {}), samples("mode_seeking_sds", {})
    k = slope("cond", T)
    np.testing.assert_allclose(plain.var(0), k**2, rtol=0.05)
    np.testing.assert_allclose(reduced.var(0), (1 - k) ** 2, rtol=0.05)
    eps = plain - reduced
    np.testing.assert_allclose((plain + eps).var(0), (1 + k) ** 2, rtol=0.05)
