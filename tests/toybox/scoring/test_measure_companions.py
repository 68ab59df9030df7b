"""Networks of shapes measured where what they say is known."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.toybox.scoring import measure_companions as measures
from sdsjax.toybox.training import pool as pools

COUNT, SIZE = 3, 4


def held_out(*_):
    """Renders whose red is their disparity; normals that face the camera, tilted."""
    rng = np.random.default_rng(0)
    disparity = rng.uniform(0.2, 0.8, (COUNT, SIZE, SIZE)).astype(np.float32)
    x = np.repeat(2 * disparity[..., None] - 1, 3, -1)
    normal = np.broadcast_to((0.6, 0.0, -0.8), (COUNT, SIZE, SIZE, 3))
    surface = np.concatenate([disparity[..., None], 0.5 + 0.5 * normal], -1)
    mask = np.ones((COUNT, SIZE, SIZE), bool)
    mask[:, 0] = False
    chosen = SimpleNamespace(background=np.full((COUNT, 3), 0.5))
    return chosen, x, surface, mask


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(measures, "heldout_batch", held_out)
    looks = {
        "clean": lambda key, x, background: x,
        "ground": lambda key, x, background: 0 * x + background[:, None, None],
    }
    monkeypatch.setattr(measures, "looks", lambda: looks)
    monkeypatch.setattr(measures, "BATCH", 2)  # so that the three come in one part


def test_a_depth_network_is_right_of_what_it_sees(known, monkeypatch):
    """Where it is shown the ground alone, it knows as little as a flat guess."""

    def predict(module, params, x):
        return params + 0.5 * x[..., 0]

    monkeypatch.setattr(measures.dpt, "predict", predict)
    network = SimpleNamespace(module=None, params=jnp.float32(0.5))
    figures = measures.measure_shapes(network, "depth", None)
    assert list(figures) == ["clean", "ground", "flat"]
    clean, ground, flat = figures.values()
    np.testing.assert_allclose(list(clean.values()), [1, 0, 0], atol=1e-5)
    assert ground["correlation"] == flat["correlation"] == 0
    # a flat guess is wrong by the mean disparity of the covered pixels, in depth
    _, _, surface, mask = held_out()
    disparity = surface[..., 0].astype(float)

    def depth(d):
        return 1 / ((1 - d) / pools.FAR + d / pools.NEAR)

    guess = depth(disparity[mask].mean())
    errors = [
        np.mean(np.abs(guess - depth(d[m])) / depth(d[m]))
        for d, m in zip(disparity, mask)
    ]
    assert flat["abs_rel"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_normals_are_measured_against_facing_the_camera(known, monkeypatch):
    def predict(module, params, x):
        return jnp.broadcast_to(params, x.shape)

    monkeypatch.setattr(measures.dpt, "predict", predict)
    network = SimpleNamespace(module=None, params=jnp.array([0.0, 0.6, -0.8]))
    figures = measures.measure_shapes(network, "normals", None)
    # 0.64 is the cosine of what is said, 0.8 that of a normal that faces the camera
    assert figures["clean"]["degrees"] == pytest.approx(50.208, abs=1e-2)
    assert figures["ground"] == figures["clean"]
    assert figures["flat"]["degrees"] == pytest.approx(36.870, abs=1e-2)


def test_held_out_surfaces_are_of_no_training_s_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "build_pool", lambda folder, **how: (folder, how))
    folder, how = measures.heldout_surfaces(tmp_path)
    assert folder == tmp_path
    assert how == {"singles": 8, "pairs": 2, "seed": 1000, "surfaces": True}
