"""Meshes: known solids come back with their size, place, colour and orientation."""

import tracemalloc
from functools import cache

import jax
import numpy as np
import pytest
import trimesh

from sdsjax.exports import mesh as meshes
from sdsjax.exports.density_grid import SH_C0, MeshError, density_field
from sdsjax.exports.glb import linear_from_display, write_mesh
from sdsjax.exports.mesh import extract_mesh, mesh_of_field
from sdsjax.representations.gaussians import Gaussians


def ball(radius=0.5, count=3000, sigma=0.06, centre=(0.1, 0.2, -0.1), shell=False):
    """Splats in (or on) a ball: red where x is large, blue elsewhere."""
    rng = np.random.default_rng(0)
    ray = rng.normal(size=(count, 3))
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    reach = radius * (1 if shell else rng.random((count, 1)) ** (1 / 3))
    points = np.array(centre) + ray * reach
    rgb = np.where(ray[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]])
    made = Gaussians(
        means=points.astype("f4"),
        log_scales=np.full((count, 3), np.log(sigma), "f4"),
        quats=rng.normal(size=(count, 4)).astype("f4"),
        opacity_logits=np.full(count, 2.0, "f4"),
        sh=((rgb - 0.5) / SH_C0).astype("f4")[:, None],
        alive=np.ones(count, bool),
    )
    return jax.device_put(made)


def joined(*splats):
    """All of them in one: rows one after another."""
    return jax.device_put(Gaussians(*map(np.concatenate, zip(*splats))))


@cache
def meshed():
    """The ball at a resolution of 32, of which nothing is changed."""
    return extract_mesh(ball(), resolution=32)


def test_density_is_the_sum_over_all_pairs():
    """Windows, batches and widening against a dense float64 sum at the nodes."""
    rng = np.random.default_rng(3)
    splats = ball(count=40)._replace(
        log_scales=rng.uniform(-3.2, -1.2, (40, 3)).astype("f4")
    )
    field = density_field(splats, resolution=24)
    nodes = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), axis=-1)
    points = field.origin + field.step * nodes.reshape(-1, 3)
    total = np.zeros(len(points))
    for mean, log_scale, quat, logit in zip(
        *(np.asarray(a, np.float64) for a in splats[:4])
    ):
        w, x, y, z = quat / np.linalg.norm(quat)
        turn = trimesh.transformations.quaternion_matrix([w, x, y, z])[:3, :3]
        cov = turn @ np.diag(np.exp(2 * log_scale)) @ turn.T
        cov += (0.5 * field.step) ** 2 * np.eye(3)
        d = points - mean
        power = np.einsum("ni,ij,nj->n", d, np.linalg.inv(cov), d)
        total += np.where(power < 9, np.exp(-0.5 * power), 0) / (1 + np.exp(-logit))
    assert total.max() > 1
    np.testing.assert_allclose(field.density.ravel(), total, atol=2e-3)


def test_a_fine_grid_of_wide_splats_takes_the_memory_of_the_grid():
    splats = ball(count=80, sigma=0.4)
    tracemalloc.start()
    field = density_field(splats, resolution=96)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the result, and what is drawn of one splat at a time
    assert peak < 4.5 * field.density.nbytes
    # such splats reach across the whole grid, and none is cut off
    assert (field.density[48, 48] > 0).all()


@pytest.mark.parametrize("shell", [False, True])
def test_ball_is_found_where_it_is(shell):
    mesh = extract_mesh(ball(shell=shell), resolution=48)
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces)
    assert solid.is_watertight
    # One surface, also around a hollow shell, facing outwards.
    assert solid.body_count == 1
    np.testing.assert_allclose(solid.center_mass, [0.1, 0.2, -0.1], atol=0.02)
    radius = (solid.volume * 3 / (4 * np.pi)) ** (1 / 3)
    assert 0.5 < radius < 0.66


@pytest.mark.parametrize("largest_only", [False, True])
@pytest.mark.parametrize("planes", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_slabs_are_seen_nowhere(monkeypatch, planes, largest_only):
    """One plane of nodes at a time, or all at once: the same surface, closed."""
    rng = np.random.default_rng(1)
    splats = ball(count=300, sigma=0.03, shell=True)
    dust = splats._replace(means=rng.uniform(-1, 1, (300, 3)).astype("f4"))
    both = joined(splats, dust)
    whole = extract_mesh(both, resolution=40, largest_only=largest_only)
    monkeypatch.setattr(meshes, "SLAB_NODES", planes * 40**2)
    cut = extract_mesh(both, resolution=40, largest_only=largest_only)
    assert len(cut.vertices) == len(whole.vertices)
    assert len(cut.faces) == len(whole.faces)
    solid = trimesh.Trimesh(cut.vertices, cut.faces, process=False)
    assert solid.is_watertight
    volume = trimesh.Trimesh(whole.vertices, whole.faces, process=False).volume
    np.testing.assert_allclose(solid.volume, volume, rtol=1e-6)
    order, same = (np.lexsort(m.vertices.round(5).T) for m in (cut, whole))
    gap = np.abs(cut.vertices[order] - whole.vertices[same]).max(axis=1)
    assert np.quantile(gap, 0.99) < 1e-6
    shades = np.abs(cut.colours[order] - whole.colours[same]).max(axis=1)
    assert np.quantile(shades, 0.99) < 1e-5


def test_colours_follow_the_splats():
    mesh = meshed()
    right = mesh.colours[mesh.vertices[:, 0] > 0.35]
    left = mesh.colours[mesh.vertices[:, 0] < -0.15]
    np.testing.assert_allclose(right.mean(axis=0), [0.9, 0.1, 0.1], atol=0.06)
    np.testing.assert_allclose(left.mean(axis=0), [0.1, 0.1, 0.9], atol=0.06)


@pytest.mark.slow
def test_largest_component_only():
    big, small = ball(), ball(radius=0.05, count=100, centre=(0.9, 0.9, 0.9))
    both = joined(big, small)
    parts = [
        trimesh.Trimesh(m.vertices, m.faces).body_count
        for m in (
            extract_mesh(both, resolution=48),
            extract_mesh(both, resolution=48, largest_only=True),
        )
    ]
    assert parts == [2, 1]
    # What is dropped takes nothing from what stays.
    alone = extract_mesh(big, resolution=48)
    kept = extract_mesh(both, resolution=48, largest_only=True)
    volumes = [trimesh.Trimesh(m.vertices, m.faces).volume for m in (alone, kept)]
    assert volumes[1] / volumes[0] > 0.97


def test_dead_splats_leave_no_trace():
    splats = ball(count=400)
    means = np.asarray(splats.means) + np.float32(5.0)
    far = splats._replace(means=means, alive=np.zeros(400, bool))
    both = joined(splats, far)
    one, two = (extract_mesh(s, resolution=24) for s in (splats, both))
    np.testing.assert_array_equal(one.vertices, two.vertices)


def test_empty_names_the_range():
    faint = ball(count=50)._replace(opacity_logits=np.full(50, -8.0, "f4"))
    with pytest.raises(MeshError, match=r"opacities reach 0\.000335"):
        extract_mesh(faint)
    with pytest.raises(MeshError, match="the density runs from"):
        extract_mesh(ball(count=50), resolution=16, level_scale=100.0)


def test_glb_reloads_with_frame_and_colours(tmp_path):
    mesh = meshed()
    path = write_mesh(tmp_path / "mesh.glb", mesh)
    again = trimesh.load(path, force="mesh")
    np.testing.assert_allclose(again.vertices, mesh.vertices, atol=1e-6)
    colours = np.asarray(again.visual.vertex_colors)[:, :3] / 255
    np.testing.assert_allclose(colours, linear_from_display(mesh.colours), atol=3e-3)
    # Outwards: normals point away from the centre.
    outwards = ((again.vertices - again.centroid) * again.vertex_normals).sum(axis=1)
    assert (outwards > 0).mean() > 0.99


def test_baked_texture_shows_the_vertex_colours(tmp_path):
    mesh = extract_mesh(ball(count=500), resolution=16)
    path = write_mesh(tmp_path / "mesh.glb", mesh, uv=True, texture_size=256)
    again = trimesh.load(path, force="mesh")
    assert again.visual.material.metallicFactor == 0.0
    shown = again.visual.to_color().vertex_colors[:, :3] / 255
    near = np.linalg.norm(again.vertices[:, None] - mesh.vertices, axis=2).argmin(
        axis=1
    )
    gap = np.abs(shown - mesh.colours[near])
    assert np.median(gap) < 0.02
    assert np.quantile(gap, 0.95) < 0.15


def test_a_radiance_field_comes_back_with_its_size_place_and_colour():
    centre = np.array([0.1, -0.2, 0.15])

    def look(x):
        away = np.linalg.norm(x - centre, axis=-1)
        rgb = np.where(x[:, :1] > centre[0], [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]])
        return 10 + 100 * (0.5 - away), rgb  # 10 at radius .5

    mesh = mesh_of_field(look, resolution=48)
    away = np.linalg.norm(mesh.vertices - centre, axis=-1)
    np.testing.assert_allclose(away, 0.5, atol=2e-3)
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_watertight
    np.testing.assert_allclose(solid.volume, 4 / 3 * np.pi * 0.125, rtol=0.02)
    right = mesh.vertices[:, 0] > centre[0] + 0.05
    np.testing.assert_allclose(mesh.colours[right], [[0.9, 0.1, 0.1]] * right.sum())
    # a faint field is cut at half of what it has
    faint = mesh_of_field(lambda x: (0.01 * look(x)[0], look(x)[1]), resolution=24)
    peak = 0.01 * (10 + 100 * 0.5)
    want = 0.5 - (peak / 2 / 0.01 - 10) / 100
    away = np.linalg.norm(faint.vertices - centre, axis=-1)
    np.testing.assert_allclose(away, want, atol=0.03)


def test_a_radiance_field_is_baked_into_a_texture(tmp_path):
    def look(x):
        return 40 * (1 - np.linalg.norm(x, axis=-1)), 0.5 + 0.4 * np.sin(3 * x)

    mesh = mesh_of_field(look, resolution=20)
    path = write_mesh(tmp_path / "mesh.glb", mesh, uv=True, texture_size=256)
    again = trimesh.load(path, force="mesh")
    assert again.visual.material.baseColorTexture.size == (256, 256)
    shown = again.visual.to_color().vertex_colors[:, :3] / 255
    gap = np.abs(shown - look(again.vertices)[1])
    # the nodes' colours are blended: a cell is .1 wide, the colour's slope 1.2
    assert np.median(gap) < 0.03
    assert np.quantile(gap, 0.95) < 0.15


def test_an_empty_field_is_refused_with_its_range():
    def look(x):
        return np.zeros(len(x)), np.zeros((len(x), 3))

    with pytest.raises(MeshError, match=r"no surface at density 0: .* 0 to 0"):
        mesh_of_field(look, resolution=8)
