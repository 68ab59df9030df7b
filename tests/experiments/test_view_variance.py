"""Relatives of a rendering, and correlations that are known."""

import jax
import numpy as np
import pytest
from experiment_folder import load, modules

from sdsjax.cameras import camera_angles, camera_position
from sdsjax.studies.statistics import covariance_trace, jackknife, squared_mean


@pytest.fixture(scope="module")
def nearby():
    with modules("view_variance", ("nearby",)) as found:
        yield found["nearby"]


def rendering(nearby, azimuth, elevation, distance, seed):
    angles = np.float32([azimuth, azimuth + 90.0])
    return nearby.Drawn(
        angles, np.float32(elevation), np.float32(distance), jax.random.key(seed)
    )


def test_a_relative_differs_in_what_it_says_and_in_nothing_else(nearby):
    first = rendering(nearby, 10.0, 40.0, 3.0, 1)
    second = rendering(nearby, -70.0, 5.0, 3.2, 2)
    kinds = nearby.relatives(background=True)
    for name, change in kinds.items():
        found, what = change(first, second), name.split()
        for field in first._fields:
            got, own, other = (getattr(x, field) for x in (found, first, second))
            if field == "background":
                got, own, other = map(jax.random.key_data, (got, own, other))
            if what[0] == "same":
                np.testing.assert_array_equal(got, own if field == what[1] else other)
            elif what[0] != field:
                np.testing.assert_array_equal(got, own)
            elif field == "background":
                np.testing.assert_array_equal(got, other)
            else:  # towards the middle of the range
                by = float(what[2]) * (-1 if field == "elevation" else 1)
                np.testing.assert_allclose(got, own + by, rtol=1e-6)
    fewer = set(kinds) - set(nearby.relatives(background=False))
    assert fewer == {"background anew", "same background"}


def test_its_cameras_stand_where_it_says(nearby):
    drawn = rendering(nearby, 10.0, 40.0, 3.0, 1)
    cameras = jax.jit(nearby.cameras_of, static_argnums=(1, 2))(drawn, 16, 40.0)
    azimuth, elevation = jax.jit(jax.vmap(camera_angles))(cameras)
    np.testing.assert_allclose(azimuth, [10, 100], atol=1e-3)
    np.testing.assert_allclose(elevation, [40, 40], atol=1e-3)
    place = jax.jit(jax.vmap(camera_position))(cameras)
    np.testing.assert_allclose(np.linalg.norm(place, axis=1), [3, 3], rtol=1e-5)
    assert (cameras.width, cameras.height) == (16, 16)


def test_correlations_of_gaussians_are_found_with_their_errors(nearby):
    """Of unit numbers beside a mean of 2, .8 correlated, and noise of half a width."""
    rng = np.random.default_rng(0)
    one, other, *noises = rng.normal(size=(5, 400, 30))
    near = 0.8 * one + 0.6 * other
    a, b, p = (2 + x + 0.5 * e for x, e in zip((one, one, near), noises))
    found = nearby.describe({"A": a, "B": b, "near": p}, np.full(30, 3.0))["theta"]
    value, error = found["correlation"]["near"]
    assert 0.001 < error < 0.03
    assert abs(value - 0.8) < 4 * error
    np.testing.assert_allclose(found["views"], 30, rtol=0.05)
    np.testing.assert_allclose(found["noise"], 30 * 0.25, rtol=0.05)
    np.testing.assert_allclose(found["signal"], 30 * 4, rtol=0.05)


def test_a_scale_is_adam_s(nearby):
    rng = np.random.default_rng(1)
    found = {name: rng.normal(size=(20, 3)) for name in ("A", "B", "near")}
    scale = np.array([1.0, 0.0, 2.0])
    scaled = {name: values * scale for name, values in found.items()}
    one, other = nearby.describe(found, scale), nearby.describe(scaled, scale)
    assert one["adam"]["correlation"] == other["theta"]["correlation"]


def test_statistics_without_one_sample_are_those_of_the_rest():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 6, 4))
    for statistic in (covariance_trace, squared_mean):
        _, left = statistic(a, b)
        keep = [np.arange(6) != i for i in range(6)]
        expected = [statistic(a[rows], b[rows])[0] for rows in keep]
        np.testing.assert_allclose(left, expected)
    np.testing.assert_allclose(
        covariance_trace(a, b)[0], np.cov(a.T, b.T)[:4, 4:].trace()
    )
    off = [a[i] @ b[j] for i in range(6) for j in range(6) if i != j]
    np.testing.assert_allclose(squared_mean(a, b)[0], np.mean(off))
    # of a mean the jackknife's error is the standard error
    x = a[:, 0]
    without = (x.sum() - x) / 5
    _, error = jackknife(x.mean(), without)
    np.testing.assert_allclose(error, x.std(ddof=1) / 6**0.5)


@pytest.mark.slow
def test_a_small_run_is_reported(tmp_path, monkeypatch):
    """Of a step and two noises a gradient; the command's own 20 and 4 take longer."""
    module = load("view_variance")
    fewer = module.SMALL._replace(steps=(1,), noises=2)
    monkeypatch.setattr(module, "SMALL", fewer)
    module.main(["--out", str(tmp_path), "--samples", "3"])
    table = (tmp_path / "small.md").read_text()
    assert "| azimuth + 1 |" in table
    assert "nan" not in table
    assert (tmp_path / "small.png").stat().st_size > 5000
