"""Fields without an end: the contraction, rays to infinity, cameras inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera, pixel_rays
from precision import enable_x64
from small_field import KEY, blob, far_along, in_a_hurry

from sdsjax.exports.mesh import mesh_of_field
from sdsjax.render.raymarching import volume_rendering as volume
from sdsjax.representations.radiance_field import hash_grid
from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    init_field,
    raw_density,
    unit_cube_to_world,
    world_to_unit_cube,
)
from sdsjax.representations.radiance_field.normals import density_and_normals
from sdsjax.representations.radiance_field.scene_contraction import (
    contract,
    uncontract,
)


def test_contraction_by_hand():
    along = np.array([0.36, -0.48, 0.8])
    lengths = np.array([0.0, 0.3, 1.0, 1.5, 2.0, 10.0, 1e6])
    want = np.array([0.0, 0.3, 1.0, 2 - 2 / 3, 1.5, 1.9, 2 - 1e-6])
    got = jax.jit(contract)(np.float32(lengths[:, None] * along))
    np.testing.assert_allclose(got, want[:, None] * along, atol=3e-7)
    outwards = jax.jit(uncontract)
    back = np.asarray(outwards(got))
    np.testing.assert_allclose(back[:-1], lengths[:-1, None] * along, rtol=2e-5)
    # what lies nearer to the border, or beyond it, is 1000 away
    np.testing.assert_allclose(np.linalg.norm(back[-1]), 1000, rtol=1e-3)
    assert np.isfinite(outwards(np.full((7, 3), 2.0, np.float32))).all()


def test_its_derivatives_are_those_of_differences():
    """1 / |y|^2 along the ray from the origin, (2 - 1 / |y|) / |y| across."""
    with enable_x64(True):
        y = np.array([[0.3, -0.2, 0.1], [1.2, -1.6, 0.0], [0.0, 30.0, 40.0]])
        slopes = jax.jit(jax.vmap(jax.jacfwd(contract)))(y)
        compiled, slopes = jax.jit(contract), np.asarray(slopes)
        h, at = 1e-6 * np.eye(3), lambda y: np.asarray(compiled(y))
        for point, slope in zip(y, slopes):
            want = [(at(point + d) - at(point - d)) / 2e-6 for d in h]
            np.testing.assert_allclose(slope, np.stack(want, axis=1), atol=2e-9)
        for point, slope in zip(y[1:], slopes[1:]):
            length = np.linalg.norm(point)
            along, across = point / length, np.cross(point / length, [0.0, 0.0, 1.0])
            across /= np.linalg.norm(across)
            np.testing.assert_allclose(along @ slope @ along, length**-2, rtol=1e-9)
            want = (2 - 1 / length) / length
            np.testing.assert_allclose(across @ slope @ across, want, rtol=1e-9)
        np.testing.assert_array_equal(slopes[0], np.eye(3))
        at_rest = jax.jit(jax.jacrev(contract))(np.zeros(3))
        np.testing.assert_array_equal(at_rest, np.eye(3))


@pytest.mark.parametrize("scene", ["box", "contracted"])
def test_the_cube_holds_the_scene(scene):
    field = FieldSettings(
        hash_grid.make_grid(levels=1), 1.5, 8, "exp", 0.0, 1.0, 0, 0, scene
    )
    x = 1.4 * np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    compiled = jax.jit(lambda x: world_to_unit_cube(field, x))
    inwards = lambda x: np.asarray(compiled(x))  # noqa: E731
    place = inwards(x)
    assert 0 < place.min() < place.max() < 1
    back = jax.jit(lambda place: unit_cube_to_world(field, place))(place)
    np.testing.assert_allclose(back, x, atol=2e-5)
    far = inwards(np.tile(np.float32([-1500.0, 0.0, 0.0]), (20, 1)))
    outside = 0.001 / 4 if scene == "contracted" else -499.5
    np.testing.assert_allclose(far[:1], [[outside, 0.5, 0.5]], rtol=1e-3)


def test_shares_of_the_way_are_even_in_inverse_distance():
    shares = np.linspace(0.0, 1.0, 9, dtype=np.float32)[None]
    near, far = np.float32([0.01]), np.float32([1000.0])
    compiled = jax.jit(volume.fraction_to_distance, static_argnums=3)
    fraction_to_distance = lambda *a: np.asarray(compiled(*a))  # noqa: E731
    t = fraction_to_distance(near, far, shares, 2.0)
    np.testing.assert_array_equal(t[0, [0, -1]], [near[0], far[0]])
    assert np.all(np.diff(t) > 0)
    steps = np.diff(1 / (np.float64(t) + 2))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)
    even = fraction_to_distance(near, far, shares)
    np.testing.assert_allclose(even, np.linspace(0.01, 1000, 9)[None], rtol=1e-6)


# the blob's own length is the contracted one: 5/3 is a sphere 3 bounds away
@pytest.mark.parametrize(
    ("scene", "blob_radius", "radius"),
    [
        pytest.param("box", 0.8, 0.8, marks=pytest.mark.slow),
        pytest.param("contracted", 0.8, 0.8, marks=pytest.mark.slow),
        ("contracted", 5 / 3, 3.0),
    ],
)
def test_a_camera_inside_sees_the_walls_of_a_hollow(scene, blob_radius, radius):
    """Against 20 000 points a ray in float64, and the sphere's own normals."""
    settings = {"coarse": 96, "fine": 96, "blob_scale": -1000.0}
    representation, params, state = blob(
        scene=scene, blob_radius=blob_radius, **settings
    )
    camera = orbit_camera(30.0, 20.0, 0.2, width=5, height=4)
    draw = jax.jit(lambda params: representation.render(params, state, camera, None))
    drawn = in_a_hurry(draw, params)(params)
    np.testing.assert_allclose(drawn.opacity, 1, atol=1e-5)
    np.testing.assert_allclose(drawn.rgb, 0.5, atol=1e-5)
    origins, directions = (np.float64(a) for a in pixel_rays(camera))
    t = np.linspace(0.0, 2 * radius, 20_001)[1:]
    places = origins[..., None, :] + t[:, None] * directions[..., None, :]
    length = np.linalg.norm(places, axis=-1)
    if scene == "contracted":
        length = np.where(length > 1, 2 - 1 / np.maximum(length, 1), length)
    tau = np.logaddexp(-1000 * (1 - length / blob_radius), 0) * (t[1] - t[0])
    weights = np.exp(tau - np.cumsum(tau, axis=-1)) * -np.expm1(-tau)
    far = weights @ t
    # walls have a depth, in which light is lost: 0.03 and, 3 away, 0.13
    assert (far - far_along(origins, directions, radius)).min() > 0.01
    forward = directions @ np.float64(camera.world_to_camera)[2, :3]
    np.testing.assert_allclose(drawn.depth, far * forward, rtol=1e-2)
    walls = -(origins + far[..., None] * directions)
    walls /= np.linalg.norm(walls, axis=-1, keepdims=True)
    np.testing.assert_allclose(drawn.normal, walls, atol=0.02)


@pytest.mark.slow
def test_an_empty_scene_shows_its_background_and_moves():
    """Nothing out to the end: white, no depth; every gradient is finite."""
    losses = {"distortion": 1.0, "z_variance": 1.0}
    representation, params, state = blob(
        scene="contracted", blob_scale=1000.0, blob_radius=0.01, losses=losses,
        coarse=8, fine=8,
    )  # fmt: skip
    camera = orbit_camera(30.0, 20.0, 0.5, width=3, height=3)

    def loss(params):
        drawn = representation.render(params, state, camera, KEY)
        total, _ = representation.regularize(params, state, drawn, 0)
        return total + jnp.sum(drawn.rgb + drawn.opacity[..., None]), drawn

    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, drawn), gradient = in_a_hurry(slope, params)(params)
    # the ball at the origin is hit by the middle pixel at most
    edge = np.arange(9).reshape(3, 3) != 4
    assert not drawn.opacity[edge].any()
    assert not drawn.depth[edge].any()
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_normals_outside_the_ball_are_those_of_the_world():
    """The analytic ones go through the contraction; float64, small differences."""
    grid = hash_grid.make_grid(levels=1, log2_size=9, smooth=True)
    field = FieldSettings(grid, 1.0, 8, "softplus", 4.0, 0.5, 0, 0, "contracted")
    with enable_x64(True):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(4, 3)) * np.array([[0.3], [1.5], [4.0], [9.0]])
        shapes = jax.eval_shape(lambda key: init_field(key, field), KEY)
        params = jax.tree.map(lambda a: rng.normal(0, 0.3, a.shape), shapes)
        density = jax.jit(lambda params, x: raw_density(field, params, x)[0])
        at = lambda x: np.asarray(density(params, x))  # noqa: E731
        normals = jax.jit(
            lambda p, x: density_and_normals(field, p, x, None, "analytic")
        )
        _, got = normals(params, x)
        slope = [at(x + h) - at(x - h) for h in 1e-6 * np.eye(3)]
        slope = np.stack(slope, axis=-1)
        want = -slope / np.linalg.norm(slope, axis=-1, keepdims=True)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_box_of_the_scene_becomes_a_mesh():
    representation, params, state = blob(
        scene="contracted", bound=0.7, blob_scale=10.0, blob_radius=0.5
    )
    look = jax.jit(lambda x: representation.field(params, state, x))
    mesh = mesh_of_field(look, resolution=24, bound=0.7, level=np.log(2))
    radii = np.linalg.norm(mesh.vertices, axis=1)
    # softplus(0) = log 2; between nodes it is not quite straight
    np.testing.assert_allclose(radii, 0.5, atol=0.01)
    np.testing.assert_allclose(mesh.colours, 0.5, atol=0.01)
