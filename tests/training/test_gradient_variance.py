"""Variance measured in training: right numbers, and not a bit of the run changed."""

import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from test_noise_samples import one_gaussian
from test_train_step import front_views

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS
from sdsjax.exports.report import Run, report_html
from sdsjax.exports.variance_section import variance_html
from sdsjax.representations.image import image
from sdsjax.training import programs, train
from sdsjax.training import session as session_module
from sdsjax.training.gradient_variance import make_step_variance, whole_groups
from sdsjax.types import PriorSource

SCHEDULE = NoiseSchedule.scaled_linear()
SIZE, T = 4, 300
TAU2 = 0.4  # of test_noise_samples' prior


def test_numbers_are_the_closed_forms():
    """Pixels on N(.2, tau^2), sds at s = 1, w = 1, one t: per view tr Cov g = d
    (k-1)^2, signal d (k alpha (z - .2)/sigma)^2; J = 2, so theta has 4/n of it."""
    n, shape = 2, (SIZE, SIZE, 3)
    mean = np.full(shape, 0.2, np.float32)
    source = PriorSource(mean, one_gaussian)
    representation = image(shape=shape, space="image", losses={})
    params, rep_state = jax.jit(representation.init)(jax.random.key(0))
    state = SimpleNamespace(
        step=np.int32(3), params=params, rep_state=rep_state, estimator_state=()
    )
    measure = make_step_variance(
        source,
        representation,
        ESTIMATORS["sds"](SCHEDULE, guidance_scale=1.0, weighting="one"),
        lambda key, step, total, shape: jnp.full(shape, T),
        partial(front_views, n=n),
        total=10,
        samples=400,
    ).__wrapped__
    row = jax.jit(lambda p, k: measure(state, p, k))(mean, jax.random.key(1))
    draw = jax.jit(lambda params: representation.render(params, rep_state, None, None))
    rgb = np.asarray(draw(params).rgb)
    alpha, sigma = (float(np.asarray(v)[T]) for v in (SCHEDULE.alphas, SCHEDULE.sigmas))
    k, d = sigma**2 / (alpha**2 * TAU2 + sigma**2), 48
    signal = float(np.sum((k * alpha * (2 * rgb - 1.2) / sigma) ** 2))
    truth = {
        "z": d * (k - 1) ** 2,
        "theta": 4 / n * d * (k - 1) ** 2,
        "signal_z": signal,
        "signal_theta": 4 * signal,
        "snr_z": signal / (d * (k - 1) ** 2),
        "c_star": k,
        "left_none": d * k**2,
        "left_sds": d * (k - 1) ** 2,
        "left_optimal": 0.0,
    }
    for name, value in truth.items():
        error = float(row[f"variance/{name}_error"])
        # c* estimated from n samples leaves 2 k^2 / n of a variance of d k^2.
        assert abs(float(row[f"variance/{name}"]) - value) < 4.5 * error + 0.01, name
        assert error < 0.1 * value + 0.01, name
    assert row["variance/r_min"] < row["variance/r_mean"] < row["variance/r_max"]


def test_samples_come_in_whole_groups():
    assert whole_groups(2) == (2, 2)
    assert whole_groups(13) == (16, 8)
    assert whole_groups(64) == (64, 8)
    with pytest.raises(ValueError, match="at least 2"):
        whole_groups(1)


def report_only(workdir, *_, **__):
    (workdir / "report.html").write_text("report")
    return {"report": workdir / "report.html"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(workdir, history) by name: without, with the measurement."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDSJAX_COMPILE_CACHE", "0")
        patch.setattr(session_module.exports, "export_all", report_only)

        def refused(*_, **__):
            raise AssertionError("compiled although nothing was asked for")

        for name, options in [
            ("with", {"diagnostics__variance_every": 6}),
            ("without", {}),
        ]:
            if name == "without":
                patch.setattr(programs, "make_step_variance", refused)
            options = {"steps": 12, "diagnostics__variance_samples": 4} | options
            workdir = tmp_path_factory.mktemp("runs") / name
            train.run(tiny_run.config(**options), workdir)
            lines = (workdir / "history.jsonl").read_text().splitlines()
            found[name] = workdir, [json.loads(line) for line in lines]
    return found


def test_a_measured_run_is_the_same_run_to_the_bit(runs):
    (with_it, measured), (without, plain) = runs["with"], runs["without"]
    assert tiny_run.final_digest(with_it) == tiny_run.final_digest(without)
    assert [row["step"] for row in measured] == [5, 6, 10, 12]
    assert [row["step"] for row in plain] == [5, 10, 12]
    assert not any(key.startswith("variance/") for row in plain for key in row)


def test_the_history_holds_what_was_measured_when_it_was_due(runs):
    rows = {row["step"]: row for row in runs["with"][1]}
    for step, row in rows.items():
        names = [key for key in row if key.startswith("variance/")]
        assert bool(names) == (step % 6 == 0)
        assert all(np.isfinite(row[key]) for key in names)
    assert rows[6]["variance/theta"] > 0
    assert rows[6]["variance/theta_error"] > 0
    assert rows[6]["variance/theta"] != rows[12]["variance/theta"]


def test_the_report_shows_it(runs):
    history = runs["with"][1]
    run = Run("a red cube", "ssd", "finished", {}, {}, history, (), {}, (), ("", ""))
    page = report_html(run)
    assert "Gradient variance" in page
    assert "&plusmn;" in page
    assert "step 6" in page
    assert "variance/theta error" not in page
    plain = [{k: v for k, v in row.items() if "/" not in k} for row in history]
    assert variance_html(plain) == ""
    assert "Gradient variance" not in report_html(run._replace(history=plain))
