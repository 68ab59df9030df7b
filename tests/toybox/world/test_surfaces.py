"""Meshes: closed, on the surface, coloured; surface points on the surface."""

from functools import cache

import jax
import numpy as np
import pytest

from sdsjax.toybox.world.objects import COLORS
from sdsjax.toybox.world.renderer import sdf
from sdsjax.toybox.world.scene import EXTENT, SceneSpec, build_scene
from sdsjax.toybox.world.surfaces import scene_mesh, surface_points

SPECS = (
    SceneSpec("mug", "cyan"),
    SceneSpec("sailboat", "red"),
    SceneSpec("cat", "purple", "table", "orange"),
)


NODES = 64  # a side; by default there are 96, of three times the time
_sdf = jax.jit(sdf)
PIECE = 1024


def _distance(scene, points):
    """Of points [n 3], in pieces of one length: one program for all."""
    padded = np.pad(points, ((0, -len(points) % PIECE), (0, 0)))
    pieces = [_sdf(scene, piece)[0] for piece in padded.reshape(-1, PIECE, 3)]
    return np.concatenate(pieces)[: len(points)]


@cache
def _mesh(spec):
    return scene_mesh(build_scene(spec), spec, resolution=NODES)


def _volume(vertices, faces):
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return np.einsum("fi,fi->", a, np.cross(b, c)) / 6


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_meshes_are_closed_and_oriented(spec):
    vertices, faces, _ = _mesh(spec)
    # every directed edge has its opposite exactly once: closed, and wound one way
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = edges[:, 0].astype(np.int64) * len(vertices) + edges[:, 1]
    backward = edges[:, 1].astype(np.int64) * len(vertices) + edges[:, 0]
    assert len(np.unique(forward)) == len(forward)
    assert set(forward.tolist()) == set(backward.tolist())
    assert _volume(vertices, faces) > 0.05


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
def test_vertices_and_points_lie_on_the_surface(spec):
    scene = build_scene(spec)
    vertices, _, _ = _mesh(spec)
    step = 2.04 / (NODES - 1)
    assert np.abs(_distance(scene, vertices)).max() < step / 2
    points, again, others = (
        surface_points(scene, 1000, seed=seed, resolution=NODES) for seed in (3, 3, 4)
    )
    assert np.quantile(np.abs(_distance(scene, points)), 0.99) < 1e-3
    assert (points == again).all()
    assert (points != others).any()


def test_a_ball_is_a_ball():
    spec = SceneSpec("ball", "green")
    scene = build_scene(spec)
    vertices, faces, rgb = scene_mesh(scene, spec, resolution=48)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=-1), EXTENT, atol=2e-3)
    np.testing.assert_allclose(
        _volume(vertices, faces), 4 / 3 * np.pi * EXTENT**3, rtol=0.01
    )
    np.testing.assert_allclose(rgb, np.tile(COLORS["green"], (len(rgb), 1)), atol=1e-6)
    points = surface_points(scene, 4000, seed=0, resolution=48)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), EXTENT, atol=1e-4)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.05)  # uniform by area
    np.testing.assert_allclose(np.square(points).mean(axis=0), EXTENT**2 / 3, atol=0.03)


def test_vertex_colours_are_the_captions():
    spec = SPECS[2]
    vertices, _, rgb = scene_mesh(build_scene(spec), spec, resolution=48)
    named = {tuple(np.float32(c)) for c in (COLORS["purple"], COLORS["orange"])}
    assert named <= {tuple(c) for c in rgb}
    base = vertices[:, 1] < -0.3
    assert (rgb[base] == np.float32(COLORS["orange"])).all(axis=-1).mean() > 0.95


def test_a_resolution_too_small_is_refused():
    spec = SceneSpec("ball", "red")
    with pytest.raises(ValueError, match="resolution is 4; allowed: 8 or more"):
        scene_mesh(build_scene(spec), spec, resolution=4)
