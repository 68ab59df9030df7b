"""The pool of training pictures against the renderer it stands for."""

import jax
import numpy as np
import pytest
from jitted import orbit_camera

from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.world.captions import pair_split, parse_caption
from sdsjax.toybox.world.objects import BASES, KINDS
from sdsjax.toybox.world.renderer import render
from sdsjax.toybox.world.scene import build_scene
from sdsjax.toybox.world.views import FOV_DEG, VIEW_WORDS, draw_orbit

SIZE = 16
draw_picture, draw_camera = jax.jit(render), jax.jit(draw_orbit)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    return pools.build_pool(
        folder, singles=2, pairs=1, size=SIZE, surfaces=True, log=lambda line: None
    )


@pytest.fixture(scope="module")
def unrendered():
    """As many of each as `pool` has, known by what they show alone."""
    every = np.arange(len(pools.geometries()))
    geometry = np.repeat(every, np.where(every < len(KINDS), 2, 1))
    view = np.random.default_rng(0).integers(0, len(VIEW_WORDS), len(geometry))
    return pools.Pool(layers=None, geometry=geometry, view=view)


@pytest.mark.slow
def test_every_geometry_is_there(pool, unrendered):
    assert len(pools.geometries()) == len(KINDS) * (1 + len(BASES))
    counts = np.bincount(pool.geometry)
    assert (counts[: len(KINDS)] == 2).all()
    assert (counts[len(KINDS) :] == 1).all()
    np.testing.assert_array_equal(pool.geometry, unrendered.geometry)


@pytest.mark.slow
def test_pictures_are_the_renderers(pool):
    rng = np.random.default_rng(0)
    chosen = pools.draw(pool, rng, 6, pair_fraction=0.5)
    pictures = pools.pictures(pool, chosen)
    keys = jax.random.split(jax.random.key(0), len(pool.geometry))
    for i, spec in enumerate(pools.specs(pool, chosen)):
        orbit = draw_camera(keys[chosen.row[i]])
        camera = orbit_camera(*orbit, fov=FOV_DEG, width=SIZE, height=SIZE)
        a, b = pools.PALETTE[chosen.color_a[i]], pools.PALETTE[chosen.color_b[i]]
        true = draw_picture(build_scene(spec), camera, a, b, chosen.background[i])
        error = np.abs((pictures[i] + 1) / 2 - np.clip(true.rgb, 0, 1))
        assert error.max() < 4 / 255  # four layers, each rounded to 1/255
        assert chosen.row[i] < len(pool.view)


@pytest.mark.slow
def test_surfaces_are_the_renderers(pool):
    """The stored disparity gives back the depth, the normal the one in the world."""
    chosen = pools.draw(pool, np.random.default_rng(1), 4, pair_fraction=0.5)
    keys = jax.random.split(jax.random.key(0), len(pool.geometry))
    for row, spec in zip(chosen.row, pools.specs(pool, chosen)):
        camera = orbit_camera(
            *draw_camera(keys[row]), fov=FOV_DEG, width=SIZE, height=SIZE
        )
        true = draw_picture(build_scene(spec), camera, np.ones(3, np.float32))
        covered = np.asarray(true.opacity) > 0
        stored = pool.surface[row].astype(np.float64) / 255
        assert not stored[~covered].any()
        d = stored[..., 0][covered]
        assert 0 < d.min() < d.max() < 1  # nothing is cut off at NEAR or FAR
        depth = 1 / ((1 - d) / pools.FAR + d / pools.NEAR)
        np.testing.assert_allclose(depth, true.depth[covered], rtol=0.003)
        turn = np.asarray(camera.world_to_camera)[:3, :3]
        normal = (2 * stored[covered][:, 1:] - 1) @ turn
        np.testing.assert_allclose(normal, true.normal[covered], atol=0.008)
        assert (2 * stored[covered][:, 3] - 1 < 0.5).all()  # none turned away


def test_draws_are_pure_and_keep_out_what_is_held_out(unrendered):
    a, b = (
        pools.draw(unrendered, np.random.default_rng([1, 2]), 400, pair_fraction=0.9)
        for _ in range(2)
    )
    for left, right in zip(a, b):
        np.testing.assert_array_equal(left, right)
    assert not set(pools.specs(unrendered, a)) & set(pair_split()[1])


def test_captions_say_what_is_drawn(unrendered):
    pool, rng = unrendered, np.random.default_rng(4)
    chosen = pools.draw(pool, rng, 200, pair_fraction=0.3)
    texts = pools.captions(pool, chosen, rng, view_fraction=0.5, dropout=0.2)
    empty = sum(text == "" for text in texts)
    assert 20 <= empty <= 60
    named = 0
    specs = pools.specs(pool, chosen)
    for text, spec, row in zip(texts, specs, chosen.row):
        if text:
            said, view = parse_caption(text)
            assert said == spec
            assert view in (None, pool.view[row])
            named += view is not None
    assert 50 <= named <= 110


def test_other_settings_are_refused(tmp_path):
    (tmp_path / "pool.json").write_text('{"singles": 1}')
    with pytest.raises(ValueError, match="another folder"):
        pools.build_pool(tmp_path, singles=2, pairs=1, size=SIZE)


@pytest.mark.slow
def test_a_set_shows_one_thing_from_evenly_spread_azimuths(tmp_path, monkeypatch):
    few = pools.geometries()[14:46]  # singles and pairs
    monkeypatch.setattr(pools, "geometries", lambda: few)
    sets = pools.build_pool(
        tmp_path, singles=1, pairs=1, size=8, views=4, seed=2, log=lambda line: None
    )
    orbit = pools.orbits_of(sets).reshape(-1, 4, 3)
    assert len(orbit) == len(pools.geometries())
    assert (sets.geometry.reshape(-1, 4) == sets.geometry[::4, None]).all()
    np.testing.assert_array_equal(orbit[..., 1:], np.repeat(orbit[:, :1, 1:], 4, 1))
    turns = (orbit[:, :, 0] - orbit[:, :1, 0]) % 360.0
    np.testing.assert_allclose(
        turns, np.tile([0, 90, 180, 270], (len(turns), 1)), atol=1e-3
    )
    row = 4 * 17 + 2
    camera = orbit_camera(*orbit[17, 2], fov=FOV_DEG, width=8, height=8)
    scene = build_scene(
        pools.specs(sets, pools.Draw(*np.array([[row], [0], [1], [0]])))[0]
    )
    covered = draw_picture(scene, camera, *pools.PALETTE[:2]).opacity
    np.testing.assert_allclose(sets.layers[row, ..., 5] / 255, covered, atol=1 / 255)


def test_a_pool_without_sets_says_so(unrendered):
    with pytest.raises(ValueError, match="no view sets"):
        pools.orbits_of(unrendered)
