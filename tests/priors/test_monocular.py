"""The monocular estimate bound to a prior: DPT's disparity, normals drawn from it."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_adapter import write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import fixed_vision as vision

from sdsjax.models.loading import companions
from sdsjax.models.vision import dpt
from sdsjax.priors import stable_diffusion
from sdsjax.priors.monocular import monocular


class Ramp:
    """Stands for a network: disparity offset - slope times the column."""

    class config:
        image_size = 16

    def apply(self, variables, x):
        offset, slope = variables["params"]
        shape = x.shape[:3]
        return offset - slope * jnp.broadcast_to(jnp.arange(shape[2]), shape)


def test_normals_of_the_stretched_surface():
    """A slope of disparity is a plane; offset and scale of disparity cancel."""
    x = jnp.zeros((16, 16, 3))
    estimate = jax.jit(lambda *params: monocular(Ramp(), params)(x))
    for offset, slope in ((20.0, 1.0), (40.0, 0.3)):
        disparity, normals = estimate(offset, slope)
        assert disparity.shape == (16, 16)
        assert disparity[0, 0] > disparity[0, -1]
        np.testing.assert_allclose(jnp.linalg.norm(normals, axis=-1), 1.0, atol=1e-5)
        spread = normals.reshape(-1, 3)
        np.testing.assert_allclose(spread - spread[0], 0.0, atol=1e-3)
        # nearer on the left: the plane faces the camera and to the right
        assert normals[8, 8, 0] > 0.1
        assert normals[8, 8, 2] < 0
    assert jnp.isfinite(estimate(1.0, 0.0)[1]).all()  # nothing to stretch


@pytest.mark.slow
def test_bound_to_the_prior(tmp_path):
    folder = write(tmp_path / "sd")
    depth = str(vision.write_folder(tmp_path / "depth", "depth"))
    assert stable_diffusion.load(folder, "red cat").params.depth is None
    source = stable_diffusion.load(folder, "red cat", depth_folder=depth)
    x = jnp.asarray(vision.image(32)[0])
    target = jnp.asarray(vision.image(40)[0, :32, :32])

    @jax.jit
    def both(params, x):
        def score(x):
            disparity, normals = source.bind(params).monocular(x)
            return jnp.vdot(normals, target), disparity

        return jax.value_and_grad(score, has_aux=True)(x)

    (_, disparity), slope = both(source.params, x)
    network = companions.load_companion(depth, "depth")
    want = jax.jit(lambda p, x: dpt.predict(network.module, p, x[None])[0])
    np.testing.assert_allclose(disparity, want(network.params, x), rtol=1e-4, atol=1e-5)
    assert jnp.isfinite(slope).all()
    assert jnp.abs(slope).max() > 0


def test_a_folder_that_is_no_dpt(tmp_path):
    folder = write(tmp_path / "sd")
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        stable_diffusion.load(folder, "red cat", depth_folder=str(tmp_path))


def test_normals_without_depth_are_refused(tmp_path):
    folder = write(tmp_path / "sd")
    normals = str(vision.write_folder(tmp_path / "normals", "normals"))
    with pytest.raises(ValueError, match=r"prior\.depth_folder") as caught:
        stable_diffusion.load(folder, "red cat", normals_folder=normals)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_normals_of_a_network_of_their_own(tmp_path):
    folder = write(tmp_path / "sd")
    folders = {
        name: str(vision.write_folder(tmp_path / name, name))
        for name in ("depth", "normals")
    }
    source = stable_diffusion.load(
        folder,
        "red cat",
        depth_folder=folders["depth"],
        normals_folder=folders["normals"],
    )
    x = jnp.asarray(vision.image(32)[0])
    network = companions.load_companion(folders["normals"], "normals")

    @jax.jit
    def both(weights, own, x):
        _, normals = source.bind(weights).monocular(x)
        return normals, dpt.predict(network.module, own, x[None])[0]

    found, want = both(source.params, network.params, x)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1.0, atol=1e-4)
