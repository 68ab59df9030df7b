"""The league's noise on toybox-sd: what it measures, and its columns in the table."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_folder import modules

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.priors import gaussian_mixture
from sdsjax.types import PriorSource

NAMES = ("entries", "ranking", "standings", "noise")
SCHEDULE = NoiseSchedule.scaled_linear()


@pytest.fixture(scope="module")
def league():
    with modules("league", NAMES) as found:
        yield found


@pytest.mark.slow
def test_noise_and_cosine_on_a_prior_without_any(league):
    """One Gaussian of variance tau^2, no guidance: e - eps = (1 - k)(-eps) + const."""
    tau2, one = 1e-4, jnp.ones(1)
    mean = jnp.array([[1.0, -1.0]])

    def bind(params):
        return gaussian_mixture(SCHEDULE, one, params, tau2 * one, [True])

    pieces = SimpleNamespace(source=PriorSource(mean, bind), schedule=SCHEDULE)
    z, noise = jnp.zeros(2), league["noise"]
    names = ("mode_seeking_sds", "mode_seeking")
    found = {
        name: noise.noise_of(ESTIMATORS[name](SCHEDULE), pieces, z, None, (), 1024)
        for name in names
    }
    # nearly a point: e_y - eps = alpha (z - mean) / sigma, and t alone varies
    t = np.arange(20, 981)
    g = np.asarray(SCHEDULE.alphas * SCHEDULE.sigmas)[t]
    expected = g.var() / g.mean() ** 2
    value, error = found["mode_seeking_sds"]["noise"]
    assert abs(value - expected) < 4 * error < 0.2 * expected
    np.testing.assert_allclose(found["mode_seeking_sds"]["cosine"], (1, 0), atol=1e-5)
    assert found["mode_seeking"]["noise"][0] > 3 * value
    value, error = found["mode_seeking"]["cosine"]
    assert abs(value - 1) < 4 * error < 1


def test_what_learns_has_learnt_before(league):
    mean, noise = jnp.array([[1.0, -1.0]]), league["noise"]

    def bind(params):
        one = jnp.ones(1)
        return gaussian_mixture(SCHEDULE, one, params, 0.3 * one, [True])

    pieces = SimpleNamespace(source=PriorSource(mean, bind), schedule=SCHEDULE)
    stein = ESTIMATORS["stein"](SCHEDULE, guidance_scale=1.0, fit="scalar")
    key = jax.random.key(1)
    first = stein.init(bind(mean), key, jnp.zeros(2))
    after = noise.settled(stein, pieces, jnp.zeros(2), None, 5, 4)
    assert after.memory.count > 4 * 4  # decayed, five steps of four
    assert float(after.mu) != float(first.mu)
    sds = ESTIMATORS["sds"](SCHEDULE)
    assert noise.settled(sds, pieces, jnp.zeros(2), None, 5, 4) == ()


def test_the_table_shows_what_was_measured(league):
    entries, standings = league["entries"], league["standings"]
    plan = entries.Plan(calls=48, batch=2, prompts=1, seeds=1, rates=(1.0,))
    done = {}
    truth = {"iou": 0.5, "psnr": 10, "ssim": 0.5, "chamfer": 0.1, "janus_rate": None}
    for name in ("sds", "ssd"):
        for setting in entries.ENTRIES[name].candidates:
            for prompt in (*entries.TUNE, *entries.REPORT[:1]):
                job = entries.Job(name, setting, 1.0, prompt, 0, 48)
                row = {"key": job.key(), **job._asdict(), "truth": truth}
                done[job.key()] = row | {"steps": 12, "cpu_seconds": 1.0}
    assert standings.tuned("sds", plan, done)
    assert not standings.tuned("ism", plan, done)
    key = standings.noise_key("sds", standings.best("sds", plan, done)[0], plan)
    noise = {key: {"noise": [3.25, 0.125], "cosine": [0.5, 0.03125]}}
    plain, wide = (standings.table(plan, done, n).splitlines() for n in ({}, noise))
    assert "cosine" not in plain[2]
    counts = {line.count("|") for line in wide[2:6]}
    assert counts == {15}
    rows = {line.split(" | ")[0]: line for line in wide[2:6]}
    assert rows["| sds"].endswith("| 3.25 +- 0.1 | 0.500 +- 0.03 |")
    assert rows["| ssd"].endswith("| - | - |")
