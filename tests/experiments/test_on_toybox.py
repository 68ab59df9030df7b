"""The toybox-sd halves of ssd_ablation and timesteps: their cases are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiment_folder import load

from configs.base import base_config
from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.priors import gaussian_mixture
from sdsjax.studies.comparison import Plan
from sdsjax.studies.runner import run

SCHEDULE = NoiseSchedule.scaled_linear()
STATIC = {
    "SSD": {},
    "not rescaled": {"rescale": False},
    "- eps": {"reduction": "sds"},
    "no reduction": {"reduction": "none"},
}


@pytest.fixture(scope="module")
def ablation():
    return load("ssd_ablation", "on_toybox")


@pytest.fixture(scope="module")
def times():
    return load("timesteps", "on_toybox")


def test_traced_settings_are_the_estimator_s_own_ablations(ablation):
    """And at M = 0, where no t is drawn, every variant is h."""
    z = np.float32(np.random.default_rng(0).normal(size=(3, 4)))
    means = np.stack([np.ones_like(z), -np.ones_like(z)])
    prior = gaussian_mixture(SCHEDULE, [1.0, 1.0], means, [0.3, 0.3], [True, False])
    ts, key = np.array([20, 700]), jax.random.key(1)

    def grads(estimator):
        return jax.vmap(lambda t: estimator.estimate(prior, key, (), z, t, None).grad)(
            ts
        )

    traced = jax.jit(lambda settings: grads(ablation.make(SCHEDULE, settings)))
    ssd = ESTIMATORS["ssd"]

    @jax.jit
    def own():
        found = {
            ablation.label(variant, m): grads(ssd(SCHEDULE, threshold=m, **options))
            for variant, options in STATIC.items()
            for m in (500, 1000)
        }
        return found, grads(ESTIMATORS["mode_disengaging"](SCHEDULE))

    truth, h = own()
    settings = {case.label: case.settings(0) for case in ablation.cases((500, 1000))}
    assert set(settings) == {*truth, ablation.label("SSD", 0)}
    for label, expected in truth.items():
        np.testing.assert_allclose(
            traced(settings[label]), expected, rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(
        traced(settings[ablation.label("SSD", 0)]), h, rtol=1e-4, atol=1e-6
    )
    for shares in ablation.VARIANTS.values():
        at_0 = traced(tuple(map(jnp.float32, (0.0, *shares))))
        np.testing.assert_array_equal(at_0, traced(settings[ablation.label("SSD", 0)]))


def test_every_case_is_compared_with_one_that_is_run(ablation, times):
    for cases, against in (
        (ablation.cases((300, 500)), ablation.against((300, 500))),
        (times.cases(times.SMALL), times.against()),
    ):
        labels = [case.label for case in cases]
        assert len(set(labels)) == len(labels)
        for bases in against.values():
            assert set(bases) <= set(labels)
            assert set(bases.values()) <= set(labels)
    config = base_config()
    assert config.estimator.threshold == ablation.DEFAULT
    assert config.timesteps.name == "annealed_window"


def test_schedules_cost_the_same_and_differ(times):
    plan = Plan(("a red mug",), (0, 1), 60)
    cases = times.cases(plan)
    assert {case.name for case in cases} == set(times.ESTIMATED)  # two compilations
    first = [case for case in cases if case.name == "ssd, M = 500"]
    tables = {case.label: np.asarray(case.settings(0)) for case in first}
    assert {table.shape for table in tables.values()} == {(60, plan.views)}
    assert len({table.tobytes() for table in tables.values()}) == len(times.ON_TOYBOX)
    falling = tables[times.label("ssd, M = 500", times.SQRT)]
    assert (np.diff(falling[:, 0]) <= 0).all()
    own = tables[times.label("ssd, M = 500", times.DEFAULT)]
    assert own[-10:].max() <= 600
    assert own.max() > 600


def test_janus_rates_are_compared_pair_by_pair(times):
    plan = Plan(("a blue house", "an orange cat", "a red mug"), (0, 1), 2)
    cases = {case.label: case for case in times.cases(plan)}
    root = times.label("sds, s = 7.5", times.SQRT)
    rates = {times.label("sds, s = 7.5", "random"): (0.1, 0.3), root: (0.3, 0.3)}
    rows = {
        plan.key(cases[name], (prompt, seed)): {"truth": {"janus_rate": value}}
        for name, two in rates.items()
        for seed in plan.seeds
        for prompt, value in zip(plan.prompts, (*two, None))  # a mug has no front
    }
    text = "\n".join(times.janus_rates(plan, rows))
    # differences .2 0 .2 0: mean .1, deviation .1155 over the root of 4
    assert f"| {root} | 0.30 +- 0.00 | +0.10 +- 0.06 |" in text
    assert "| sds, s = 7.5; random | 0.20 +- 0.06 | - |" in text
    assert "linear" not in text  # nothing of it has been run


def test_the_estimate_s_variance_is_that_of_the_residual_scaled():
    norms = load("ssd_norms")
    # Stable Diffusion's betas: the square of a line from .00085^.5 to .012^.5
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    for t in (20, 980):
        found = norms.with_estimate(t, {"left_sds": [2.0, 0.5]})["estimate"]
        ratio = (1 - kept[t]) / kept[t]
        np.testing.assert_allclose(found, [2 * ratio, 0.5 * ratio], rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd_ablation", "timesteps"])
def test_a_tiny_run_is_made_once_and_reported(name, tmp_path):
    module = load(name, "on_toybox")
    plan = Plan(("a red mug",), (0,), 2, swept=(500,))
    small = module.experiment()._replace(small=plan)
    argv = ["--toybox", "--out", str(tmp_path), "--runs", str(tmp_path / "runs")]
    run(argv, small)
    first = (tmp_path / "small-toybox.jsonl").read_text()
    text = (tmp_path / "small-toybox.md").read_text()
    assert all(f"| {case.label} |" in text for case in module.compared(plan).cases)
    assert (tmp_path / "small-toybox.png").stat().st_size > 5000
    run(argv, small)
    assert (tmp_path / "small-toybox.jsonl").read_text() == first
