"""Timestep samplers: ranges, schedules, purity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.timesteps import TIMESTEPS

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", TIMESTEPS)
def test_contract(name):
    sample = TIMESTEPS[name](t_min=20, t_max=980)
    draw = jax.jit(lambda key, step: sample(key, step, 100, (64,)))
    for step in (0, 50, 99, 100):
        t = draw(KEY, step)
        assert t.dtype == jnp.int32
        assert t.shape == (64,)
        assert t.min() >= 20
        assert t.max() <= 980
        np.testing.assert_array_equal(t, draw(KEY, step))


def test_uniform_reaches_both_ends_evenly():
    t = TIMESTEPS["uniform"](t_min=3, t_max=6)(KEY, 0, 10, (40000,))
    share = np.bincount(np.asarray(t), minlength=8) / 40000
    np.testing.assert_allclose(share[3:7], 0.25, atol=0.01)
    assert share[3:7].sum() == 1


def test_two_phase_switches_at_a_third():
    sample = TIMESTEPS["two_phase"](t_min=20, t_max=980, t_end=500)
    early, late = (sample(KEY, s, 15000, (5000,)) for s in (4999, 5000))
    assert early.max() > 950
    assert 480 < late.max() <= 500


def test_annealed_window_falls_linearly():
    sample = TIMESTEPS["annealed_window"](t_min=20, t_max=980, t_end=500)
    highs = [int(sample(KEY, s, 100, (20000,)).max()) for s in (0, 50, 100)]
    np.testing.assert_allclose(highs, [980, 740, 500], atol=1)


def test_fixed_schedules_follow_their_formulas():
    expected = {
        "sqrt": lambda u: 980 - 960 * np.sqrt(u),
        "linear": lambda u: 980 - 960 * u,
        "cosine": lambda u: 20 + 960 * (1 + np.cos(np.pi * u)) / 2,
    }
    for name, formula in expected.items():
        sample = TIMESTEPS[name](t_min=20, t_max=980)
        for step in (0, 30, 77, 100):
            t = sample(KEY, step, 100, ())
            assert abs(int(t) - formula(step / 100)) <= 0.51, (name, step)


@pytest.mark.parametrize("bad", [{"t_max": 1000}, {"t_min": -1}, {"t_min": 990}])
def test_times_outside_the_schedule_are_refused(bad):
    for make in TIMESTEPS.values():
        with pytest.raises(ValueError, match="t_m"):
            make(**bad)
