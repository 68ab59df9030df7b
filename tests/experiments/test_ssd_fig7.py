"""The figure-7 experiment: what it states exactly, and a tiny run."""

import jax
import numpy as np
import pytest
from experiment_folder import load, run_small

from sdsjax.diffusion import alpha_sigma
from sdsjax.studies.statistics import wilson_interval


@pytest.fixture(scope="module")
def fig7():
    return load("ssd_fig7")


@pytest.fixture(scope="module")
def mixture():
    return load("ssd_fig7", "mixture")


def test_the_modes_merge_from_t_147_on(mixture):
    """Two equal Gaussians one apart merge where alpha^2 / 4 = alpha^2 v + sigma^2."""
    assert mixture.merging_time() == 147
    for t, two in [(146, True), (147, False)]:
        alpha, sigma = (float(v) for v in alpha_sigma(mixture.SCHEDULE, t))
        assert (0.25 * alpha**2 > 0.05 * alpha**2 + sigma**2) == two


def test_lifts_keep_the_mixture_or_repeat_it(mixture):
    pad, tile = (mixture.lift(mixture.MEANS, 6, how) for how in ("pad", "tile"))
    np.testing.assert_array_equal(pad[:, :2], mixture.MEANS)
    assert not pad[:, 2:].any()
    np.testing.assert_array_equal(tile[:, 4:], mixture.MEANS)
    gap = np.linalg.norm(tile[2] - tile[1]) / np.linalg.norm(pad[2] - pad[1])
    assert abs(gap - 3**0.5) < 1e-6


def test_the_density_is_the_prior_s(mixture):
    """e = -sigma grad log p, for both branches, by finite differences."""
    prior, t, h = mixture.make_prior(), 350, 1e-4
    alpha, sigma = (float(v) for v in alpha_sigma(mixture.SCHEDULE, t))
    x = np.array([0.9, 0.3])
    e = jax.jit(lambda x: prior.noise(x, t))(x.astype(np.float32))
    for branch, conditional in ((e.cond, True), (e.uncond, False)):
        slope = [
            mixture.log_density(x + h * d, alpha, sigma, conditional)
            - mixture.log_density(x - h * d, alpha, sigma, conditional)
            for d in np.eye(2)
        ]
        np.testing.assert_allclose(
            branch, -sigma * np.array(slope) / (2 * h), rtol=1e-3
        )


def test_wilson_covers_a_certain_outcome():
    low, high = wilson_interval(16, 16)
    assert 0.78 < low < 0.83
    assert high == 1.0
    assert wilson_interval(8, 16)[0] < 0.5 < wilson_interval(8, 16)[1]


def test_ssd_needs_a_threshold_to_stay(fig7):
    """M = 0 is mode-disengaging and leaves; M = 1000 is mode-seeking and stays."""
    plan = fig7.SMALL._replace(steps=600, rate=0.05, seeds=2, thresholds=(0, 1000))
    near, _ = fig7.sweep(plan, fig7.PLANE[0])
    assert near.shape == (2, 2, 2)
    assert (near[:, 0] > 2).all()
    assert (near[:, 1] < 0.75).all()


@pytest.mark.slow
def test_a_tiny_run_writes_table_and_picture(fig7, tmp_path, monkeypatch):
    plan = fig7.Plan(20, 0.05, 2, (0, 700), fig7.PLANE[:1])
    monkeypatch.setattr(fig7, "SMALL", plan)
    keep = ("mode-seeking", "SSD, M = 100")
    monkeypatch.setattr(fig7, "PATHS", {k: fig7.PATHS[k] for k in keep})
    text = run_small(fig7, tmp_path)
    assert "merge from t = 147" in text
    assert "| mode-seeking |" in text
    assert "| uniform t, (1.5, 1) |" in text
    assert jax.config.jax_enable_x64 is False
