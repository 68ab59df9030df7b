"""What of a prediction is the noise that was added: closed forms on one Gaussian."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diagnostics.noise_projection import noise_projection
from sdsjax.diffusion import NoiseSchedule
from sdsjax.priors import gaussian_mixture

SCHEDULE = NoiseSchedule.scaled_linear()


def gaussian(tau2, d=4):
    return gaussian_mixture(SCHEDULE, [1.0], jnp.ones((1, d)), [tau2], [True])


@cache
def projected():
    """Returns (t, key) -> the projection at z = 0, of one program for every t."""

    def at(t, key):
        return noise_projection(gaussian(0.15), jnp.zeros(4), t, key, samples=4096)

    return jax.jit(at)


@pytest.mark.parametrize("t", [60, 250, 700])
def test_subtracting_the_noise_helps_if_and_only_if_k_exceeds_one_half(t):
    """Closed forms on N(1, tau^2), d = 4: c* = k, variances d k^2, d (k - 1)^2, 0."""
    d, tau2 = 4, 0.15
    alpha, sigma = (float(np.asarray(of)[t]) for of in SCHEDULE)
    k = sigma**2 / (alpha**2 * tau2 + sigma**2)
    found = jax.device_get(projected()(np.int32(t), jax.random.key(t)))
    assert abs(found.c_star.value - k) < 4 * found.c_star.error
    for name, truth in [("none", d * k**2), ("sds", d * (k - 1) ** 2)]:
        left = found.left[name]
        assert abs(left.value - truth) < 4 * left.error
    optimal = found.left["optimal"]
    assert abs(optimal.value) < 4 * optimal.error + 1e-5
    assert (found.left["sds"].value < found.left["none"].value) == (k > 0.5)
    assert float(found.r_min.value) < float(found.c_star.value)
    assert float(found.c_star.value) < float(found.r_max.value)
    assert found.r_mean.error > 0
    # One component: no prompt and the prompt agree, h = 0.
    np.testing.assert_allclose(found.h_norm.value, 0.0, atol=1e-6)
