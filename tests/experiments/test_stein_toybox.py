"""stein_variance on toybox-sd: shared evaluations, the optimum of mu, J J^T's root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_folder import modules

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.priors import gaussian_mixture
from sdsjax.types import Rendering, View

NAMES = ("toybox_figures", "toybox_samples")


@pytest.fixture(scope="module")
def stein():
    with modules("stein_variance", NAMES) as found:
        yield found


def test_one_evaluation_serves_every_estimator(stein):
    schedule, shape = NoiseSchedule.scaled_linear(), (4, 4, 3)
    means, ones = np.float32([np.full(shape, 0.5), np.full(shape, -0.5)]), np.ones(2)
    prior = gaussian_mixture(schedule, ones, means, ones, [True, False])
    prior = prior._replace(monocular=lambda x: (jnp.sum(x**2, -1), x))
    z = np.float32(np.random.default_rng(0).normal(size=shape))
    key, layer = jax.random.key(1), np.linspace(0.6, 1.0, 16, dtype="f4").reshape(4, 4)
    view = View(None, Rendering(z, layer, 2 + layer, z, {}))
    vsd = ESTIMATORS["vsd"](schedule, guidance_scale=7.5)
    ssd = ESTIMATORS["ssd"](schedule, threshold=500)
    toybox, key_noise = stein["toybox_samples"], jax.random.split(key, 3)[1]
    steins = toybox.steins(schedule)

    @jax.jit
    def both():
        state = vsd.init(prior, key, z)
        found = toybox.terms(schedule, vsd, prior, z, view, state, key)
        alone = {
            name: e.estimate(prior, key_noise, own, z, found.t, view).grad
            for name, e, own in (
                *((n, e, e.init(prior, key, z)) for n, e in steins.items()),
                ("vsd", vsd, state), ("ssd", ssd, ()),
            )
        }  # fmt: skip
        return found, alone

    found, alone = both()
    shared = {name: found.a + c for name, c in found.c.items()}
    shared |= {"vsd": found.vsd, "ssd": found.ssd}
    for name, grad in alone.items():
        np.testing.assert_allclose(shared[name], grad, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found.again, shared["constant"])


def samples(stein, count=64):
    """a is made of two of three variates, and of noise that none of them has."""
    rng, shape = np.random.default_rng(0), (count, 3)
    one, other, rest = rng.normal(size=(3, *shape)).astype(np.float32)
    c = {"constant": one, "depth": other, "normal": one}
    a, zero = 0.1 - 0.5 * one - 0.25 * other + 0.01 * rest, np.zeros_like(one)
    return stein["toybox_samples"].Terms(
        np.arange(count) * 999 // count, a, c, a, a, zero
    )


def test_optimal_mu_has_not_seen_the_noise_it_meets(stein):
    crossed, found = stein["toybox_figures"].crossed, samples(stein)
    best = crossed(found)
    first, second = slice(0, 4), slice(4, 8)  # one group of either half
    moved = found.a.copy()
    moved[first] += 3.0
    after = crossed(found._replace(a=moved))
    for name, mu in best.items():
        np.testing.assert_array_equal(after[name][first], mu[first])
        assert np.abs(after[name][second] - mu[second]).max() > 0.01, name


def test_together_takes_away_what_either_explains(stein):
    figures, found = stein["toybox_figures"], samples(stein, 640)
    best = figures.crossed(found)
    # the first and the third are one: only their sum is determined
    mu = best["together"]
    np.testing.assert_allclose(mu[:, 0] + mu[:, 2], 0.5, atol=0.05)
    np.testing.assert_allclose(mu[:, 1], 0.25, atol=0.05)
    mus = {name: {"element": 1.0, "number": 1.0} for name in found.c}
    rows = figures.figures(figures.directions(found, mus, best))
    ratio = {name: row["ratio"][0] for name, row in rows.items()}
    assert ratio["all three, optimum"] < 0.5 * ratio["constant, optimum"]
    assert ratio["constant, learnt number"] == ratio["sds"] == 1.0


def test_the_root_measures_what_is_pulled_back(stein):
    figures, rng = stein["toybox_figures"].figures, np.random.default_rng(1)
    named = {n: rng.normal(size=(64, 3)).astype(np.float32) for n in ("sds", "vsd")}
    jacobian = rng.normal(size=(5, 3))
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    root = (vectors * np.sqrt(values)) @ vectors.T
    pulled = figures({name: g @ jacobian.T for name, g in named.items()})
    for name, row in figures(named, root).items():
        for figure, value in row.items():
            np.testing.assert_allclose(
                value, pulled[name][figure], rtol=1e-3, atol=1e-4
            )
