"""The Pallas kernels, interpreted on the CPU, against the compositor they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from splat_scenes import LEARNT, PICTURES, cloud, draw, gradient, small_camera

from sdsjax.render.splatting import rasterize as module
from sdsjax.render.splatting.pallas_composite import segment_sum
from sdsjax.render.splatting.rasterize import rasterize

SETTINGS = {"capacity": 40, "tile_size": 8, "max_alpha": 0.9}


def test_pictures_and_gradients_are_those_of_the_xla_compositor():
    """Over several slabs, as the buffer is far too small."""
    gaussians, camera = cloud(30, scale=0.15, k=4), small_camera(width=20, height=12)
    want = draw(gaussians, camera, **SETTINGS)
    got = draw(gaussians, camera, kernel="pallas", **SETTINGS)
    assert int(got.aux["n_slabs"]) > 2
    for name in PICTURES:
        np.testing.assert_allclose(
            getattr(got, name), getattr(want, name), atol=2e-6, err_msg=name
        )
    want = gradient(rasterize, gaussians, camera, **SETTINGS)
    got = gradient(rasterize, gaussians, camera, kernel="pallas", **SETTINGS)
    for name in (*LEARNT, "background"):
        scale = np.linalg.norm(want[name])
        assert np.linalg.norm(got[name] - want[name]) < 1e-5 * scale, name


def test_an_accelerators_lockstep_draws_the_same(monkeypatch):
    gaussians, camera = cloud(30, scale=0.15), small_camera(width=20, height=12)
    want = draw(gaussians, camera, capacity=41)
    monkeypatch.setattr(module, "default_lockstep", lambda size: (2**20 // size**2, 32))
    got = draw(gaussians, camera, capacity=42)  # another number: compiled anew
    for name in PICTURES:
        np.testing.assert_allclose(
            getattr(got, name), getattr(want, name), atol=2e-6, err_msg=name
        )


def test_segment_sum_is_a_loop():
    values = jax.random.normal(jax.random.key(0), (50, 3))
    ids = jax.random.randint(jax.random.key(1), (50,), 0, 9) * 2
    got = jax.jit(segment_sum, static_argnums=2)(values, ids, 20)
    want = np.zeros((20, 3))
    for row, i in zip(np.asarray(values), np.asarray(ids)):
        want[i] += row
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert not np.any(np.asarray(got)[1::2])


def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match=r"'cuda'.*xla, pallas"):
        rasterize(cloud(2), small_camera(), background=jnp.ones(3), kernel="cuda")
