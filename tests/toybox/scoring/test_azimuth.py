"""The azimuth network: its error, the pictures it learns from, its files.

What the shipped one reads of true renders: test_shipped_views.
"""

import jax
import numpy as np
import pytest

from sdsjax.toybox.scoring import azimuth
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.world.objects import DIRECTED_KINDS, KINDS


def test_the_error_is_the_angle_whatever_the_turn():
    asked = np.float32([10.0, -170.0, 179.0, 90.0])
    said = np.deg2rad([-10.0, 170.0, -179.0, 270.0])
    answers = 3.0 * np.float32([np.cos(said), np.sin(said)]).T
    found = jax.jit(azimuth.azimuth_error)(answers, asked)
    np.testing.assert_allclose(found, [20.0, 20.0, 2.0, 180.0], atol=1e-3)


def test_it_is_asked_of_single_objects_with_sides_and_not_from_above():
    kinds = list(KINDS)
    geometry = np.array([kinds.index("ball"), kinds.index("house"), len(kinds)] * 2)
    orbit = np.zeros((6, 3), np.float32)
    orbit[3:, 1] = 70.0
    pool = pools.Pool(np.zeros((6, 4, 4, 6), np.uint8), geometry, geometry, orbit=orbit)
    assert "house" in DIRECTED_KINDS
    np.testing.assert_array_equal(azimuth.sided_rows(pool), [1])
    with pytest.raises(ValueError, match="view sets"):
        azimuth.sided_rows(pool._replace(orbit=None))


def test_what_is_written_is_read_and_another_network_refused(tmp_path):
    module, x = azimuth.AzimuthNet(), np.zeros((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    # as wide as what they are summed over: what comes out is of order 1
    deviation = lambda s: np.prod(s.shape[:-1]) ** -0.5  # noqa: E731
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda s: draw(0, deviation(s), s.shape).astype("f4"), shapes)
    azimuth.save_azimuth(params, tmp_path)
    x = np.float32(draw(size=(2, 64, 64, 3)))
    want = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(azimuth.load_azimuth(tmp_path)(x), want, atol=1e-2)
    azimuth.save_azimuth({"direction": params["direction"]}, tmp_path)
    with pytest.raises(ValueError, match="do not fit AzimuthNet"):
        azimuth.load_azimuth(tmp_path)
