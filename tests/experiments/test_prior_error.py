"""The error table: what it calls bias and variance, on predictors whose are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_folder import load

from sdsjax.diffusion import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
prior_error = load("prior_error")
CASE = prior_error.Case(
    "a red ball",
    np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32),
    np.zeros((2, 3)),
)


def exact(z_t, t):
    return prior_error.exact_noise(SCHEDULE, CASE.z, z_t, t)


def test_the_exact_score_is_that_of_a_gaussian_about_the_truth():
    """-sigma times the gradient of log N(z_t; alpha z, alpha^2 w^2 + sigma^2)."""
    t, z_t = 400, CASE.z + np.float32(1.0)
    alpha, sigma = float(SCHEDULE.alphas[t]), float(SCHEDULE.sigmas[t])

    def log_density(z_t):
        variance = (alpha * prior_error.WIDTH) ** 2 + sigma**2
        return -0.5 * jnp.sum((z_t - alpha * CASE.z) ** 2) / variance

    both = jax.jit(lambda z_t: (exact(z_t, t), jax.grad(log_density)(z_t)))
    found, slope = jax.device_get(both(z_t))
    np.testing.assert_allclose(found, -sigma * slope, rtol=1e-4, atol=1e-6)


def test_a_shift_is_bias_and_a_shake_is_variance():
    def shifted(z_t, t):
        return exact(z_t, t) + 0.3

    def shaken(z_t, t):
        shake = jax.random.normal(jax.random.key(t), z_t.shape)
        return exact(z_t, t) + 0.2 * shake

    noises = 64
    bias, variance = prior_error.errors(shifted, CASE, SCHEDULE, noises).T
    np.testing.assert_allclose(bias, 0.09, rtol=1e-4)
    np.testing.assert_allclose(variance, 0.0, atol=1e-9)
    bias, variance = prior_error.errors(shaken, CASE, SCHEDULE, noises).T
    # unbiased: what is left of .04 / 64 after the correction is its own scatter
    np.testing.assert_allclose(bias, 0.0, atol=1e-4)
    np.testing.assert_allclose(variance, 0.04, rtol=0.05)


def test_held_out_captions_are_of_kinds_that_differ_and_unseen_pairs():
    specs = prior_error.held_out_specs(12, np.random.default_rng(1))
    singles = [spec.kind for spec in specs if spec.base_kind is None]
    assert (len(specs), len(singles), len(set(singles))) == (12, 8, 8)
    unseen = set(prior_error.pair_split()[1])
    assert {spec for spec in specs if spec.base_kind is not None} <= unseen


@pytest.mark.slow
def test_the_small_command_prints_every_row(tmp_path, capsys):
    prompts = ["a red ball", "a blue house"]
    prior_error.main(["--prompts", *prompts, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for t in prior_error.TIMES:
        assert f"| toybox-sd, view words | {t} |" in printed
    assert (tmp_path / "small.md").read_text() in printed


def row_of(plan, index, weights, value, prior="multi-view, groups of 4"):
    errors = [[value, 0.0]] * len(prior_error.TIMES)
    row = {"prior": prior, "weights": weights, "errors": errors}
    return {prior_error.key_of(prior, weights, plan, index): row}


def test_the_newest_weights_are_shown_once_all_captions_are_there(tmp_path):
    """A training that goes on is measured anew: older rows stay, and are not shown."""
    plan = prior_error.SMALL._replace(prompts=("a red ball", "a blue house"))
    rows = row_of(plan, 0, "one", 1.0) | row_of(plan, 1, "one", 1.0)
    rows |= row_of(plan, 0, "two", 2.0)
    of = prior_error.Run(plan, rows, tmp_path, "small", tmp_path)
    (found,) = prior_error.newest(of).values()
    np.testing.assert_array_equal(found[..., 0], 1.0)
    of.rows.update(row_of(plan, 1, "two", 2.0))
    (found,) = prior_error.newest(of).values()
    np.testing.assert_array_equal(found[..., 0], 2.0)
    other = of._replace(plan=plan._replace(prompts=("a blue house", "a red ball")))
    assert prior_error.table(other) == ""


def test_jobs_are_known_by_their_weights(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"one")
    plan = prior_error.SMALL._replace(prompts=("a red ball",), multiview=str(tmp_path))
    run = prior_error.Run(plan, {}, tmp_path, "small", tmp_path)
    before = [key for key, _ in prior_error.jobs(run)]
    assert len(before) == len(set(before)) == 4
    (tmp_path / "checkpoint.safetensors").write_bytes(b"two")
    after = [key for key, _ in prior_error.jobs(run)]
    assert before[0] == after[0]
    assert not set(before[1:]) & set(after)
