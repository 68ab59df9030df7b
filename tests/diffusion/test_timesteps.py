"""Timestep samplers: ranges, schedules, purity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion.timesteps import TIMESTEPS

KEY = jax.random.key(0)


def of_step(sample, total, *shape):
    """step -> what is drawn with KEY, in numpy, of one program for every step."""
    draw = jax.jit(lambda step: sample(KEY, step, total, shape))
    return lambda step: np.asarray(draw(step))


@pytest.mark.parametrize("name", TIMESTEPS)
def test_contract(name):
    sample = TIMESTEPS[name](t_min=20, t_max=980)
    draw = jax.jit(lambda key, step: sample(key, step, 100, (64,)))
    for step in (0, 50, 99, 100):
        t = np.asarray(draw(KEY, step))
        assert t.dtype == jnp.int32
        assert t.shape == (64,)
        assert t.min() >= 20
        assert t.max() <= 980
        np.testing.assert_array_equal(t, draw(KEY, step))


@pytest.mark.parametrize("name", TIMESTEPS)
def test_quantiles_are_the_sampler_s_own_distribution(name):
    """Evenly spaced u give each t its share of many draws, and never a smaller t."""
    sampler = TIMESTEPS[name](t_min=20, t_max=60)
    u = np.float32(np.arange(4000) / 4000)
    both = jax.jit(
        lambda step: (
            sampler.quantile(u, step, 100),
            sampler(KEY, step, 100, (20_000,)),
        )
    )
    for step in (0, 40, 100):
        t, drawn = map(np.asarray, both(step))
        assert t.dtype == np.int32
        assert (np.diff(t) >= 0).all()
        shares = [np.bincount(v, minlength=1000) / v.size for v in (t, drawn)]
        assert np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).max() < 0.012
        assert (t.min(), t.max()) == (drawn.min(), drawn.max())


def test_uniform_reaches_both_ends_evenly():
    t = of_step(TIMESTEPS["uniform"](t_min=3, t_max=6), 10, 40000)(0)
    share = np.bincount(t, minlength=8) / 40000
    np.testing.assert_allclose(share[3:7], 0.25, atol=0.01)
    assert share[3:7].sum() == 1


def test_two_phase_switches_at_a_third():
    sample = TIMESTEPS["two_phase"](t_min=20, t_max=980, t_end=500)
    early, late = map(of_step(sample, 15000, 5000), (4999, 5000))
    assert early.max() > 950
    assert 480 < late.max() <= 500


def test_annealed_window_falls_linearly():
    sample = TIMESTEPS["annealed_window"](t_min=20, t_max=980, t_end=500)
    highs = [t.max() for t in map(of_step(sample, 100, 20000), (0, 33, 50, 100))]
    assert highs == [980, 822, 740, 500]  # 821.6 is rounded


def test_falling_window_is_the_published_one():
    """10 000 steps, t_min .98 -> .02 and t_max .98 -> .5 over the first 8000."""
    sample = TIMESTEPS["falling_window"](t_min=20, t_max=980, t_end=500, until=0.8)
    draw = of_step(sample, 10_000, 20_000)
    for step, low, high in [
        (0, 980, 980),
        (2000, 740, 860),
        (6000, 260, 620),
        (8000, 20, 500),
        (9999, 20, 500),
    ]:
        t = draw(step)
        assert (int(t.min()), int(t.max())) == (low, high), step
    for until in (0.0, 1.5):
        with pytest.raises(ValueError, match="until"):
            TIMESTEPS["falling_window"](until=until)


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


def test_dreamtime_never_rises_and_spends_its_time_as_weighted():
    """Steps at a t are proportional to W(t), 1 in m2..m1, Gaussian beyond."""
    steps, total = np.arange(4001), 4000
    sample = TIMESTEPS["dreamtime"](t_min=20, t_max=980)
    ts = np.asarray(jax.jit(jax.vmap(lambda i: sample(KEY, i, total, ())))(steps))
    assert (np.diff(ts) <= 0).all()
    assert ts[0] == 980
    assert ts[-1] <= 21  # W(20) is below what float32 resolves of the sum
    times = np.arange(20, 981)
    weight = np.where(times > 800, np.exp(-((times - 800) ** 2) / (2 * 300**2)), 1.0)
    late = np.exp(-((times - 500) ** 2) / (2 * 100**2))
    weight = np.where(times < 500, late, weight)
    for low, high in [(20, 400), (400, 500), (500, 800), (800, 981)]:
        chosen = (times >= low) & (times < high)
        spent = ((ts >= low) & (ts < high)).mean()
        assert abs(spent - weight[chosen].sum() / weight.sum()) < 0.003
    # step by step, but where float32 has two t's equally near
    share = np.cumsum(weight[::-1]) / weight.sum()
    want = [980 - np.argmin(np.abs(share - i / total)) for i in range(total + 1)]
    assert (ts == want).mean() > 0.98


@pytest.mark.parametrize("bad", [{"m1": 400}, {"s2": 0}])
def test_dreamtime_refuses_a_weight_that_is_none(bad):
    with pytest.raises(ValueError, match="m2"):
        TIMESTEPS["dreamtime"](**bad)


@pytest.mark.parametrize("bad", [{"t_max": 1000}, {"t_min": -1}, {"t_min": 990}])
def test_times_outside_the_schedule_are_refused(bad):
    for make in TIMESTEPS.values():
        with pytest.raises(ValueError, match="t_m"):
            make(**bad)
