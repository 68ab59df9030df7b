"""The distances of two sets of gradients, where they are known."""

import numpy as np
import pytest
from experiment_folder import load


@pytest.fixture(scope="module")
def apart():
    return load("precision").apart


def gradients(noises=32, size=500):
    rng = np.random.default_rng(0)
    return 3.0 + rng.normal(size=(noises, 4, size // 4))


def test_equal_gradients_are_not_apart(apart):
    found = apart(gradients(), gradients())
    for name in ("one", "mean", "noise"):
        assert found[name] == (0.0, 0.0)
    assert found["cosine"][0] == pytest.approx(0.0, abs=1e-12)


def test_a_tenth_longer_is_a_tenth_in_one_and_in_the_mean(apart):
    """3 +- 1 a pixel: a tenth of the root mean square, 10^.5, over a spread of 1."""
    full = gradients()
    found = apart(1.1 * full, full)
    assert found["one"][0] == pytest.approx(0.1)
    assert found["mean"][0] == pytest.approx(0.1)
    assert found["noise"][0] == pytest.approx(0.1 * 10**0.5, rel=0.02)
    assert found["cosine"][0] == pytest.approx(0.0, abs=1e-12)


def test_rounding_of_either_sign_leaves_the_mean_alone(apart):
    """Errors of .1 and of both signs: 32 noises take them down by their root."""
    full = gradients()
    signs = np.random.default_rng(1).choice([-0.1, 0.1], size=full.shape)
    found = apart(full + signs, full)
    assert found["one"][0] == pytest.approx(0.1 / 10**0.5, rel=0.02)
    assert found["mean"][0] == pytest.approx(0.1 / 32**0.5 / 3, rel=0.1)
    assert found["one"][1] < 0.01 * found["one"][0]
