"""The radiance field as a representation: contract, a ball in closed form, training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera, pixel_rays, random_orbits
from precision import enable_x64
from small_field import KEY, SMALL, as_ball, blob, in_a_hurry

from sdsjax.cameras import OrbitRange
from sdsjax.diffusion import NoiseSchedule
from sdsjax.representations.radiance_field import hash_grid, shading
from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    activate_density,
    init_field,
    raw_density,
)
from sdsjax.representations.radiance_field.normals import (
    NORMALS,
    density_and_normals,
    finite_difference_step,
)
from sdsjax.representations.radiance_field.ray_chunks import map_in_chunks
from sdsjax.representations.radiance_field.representation import (
    GEOMETRIC,
    REGULARIZERS,
    NerfParams,
    nerf,
)
from sdsjax.training.optimizers import grouped_adam
from sdsjax.training.train_step import init_state, make_train_step
from sdsjax.types import Estimate, Estimator, NoisePrediction, Prior, PriorSource

GRID = hash_grid.make_grid(levels=2, log2_size=9, base=4, smooth=True)


def test_a_jitted_step_over_views_with_every_loss_and_light():
    losses = dict.fromkeys(REGULARIZERS, 0.5)
    representation = nerf(
        **{**SMALL, "levels": 1}, losses=losses, lambertian=1.0, view_degree=1,
        background_degree=1, band_first=1, ramp_steps=10, proposal=1,
    )  # fmt: skip
    params, state = jax.jit(representation.init)(KEY)
    assert params._fields == (
        "tables", "density", "color", "background", "proposal"
    )  # fmt: skip
    assert {a.dtype for a in jax.tree.leaves((params, state))} == {np.dtype("f4")}
    # large enough to show, as after some training
    params, state = jax.device_get((params, state))
    params = params._replace(tables=tuple(1e3 * t for t in params.tables))
    cameras = random_orbits(KEY, 2, OrbitRange(), width=6, height=5)

    def loss(params, step):
        keys = jax.random.split(KEY, 2)
        views = jax.vmap(lambda c, k: representation.render(params, state, c, k))
        drawn = views(cameras, keys)
        assert drawn.rgb.shape == drawn.normal.shape == (2, 5, 6, 3)
        assert drawn.opacity.shape == drawn.depth.shape == (2, 5, 6)
        total, terms = representation.regularize(params, state, drawn, step)
        assert set(terms) == set(REGULARIZERS)
        return total + jnp.sum(drawn.rgb**2), (terms, drawn)

    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
    slope = in_a_hurry(slope, params, 5)
    (_, (terms, drawn)), gradient = jax.device_get(slope(params, 5))
    assert 0 <= float(drawn.rgb.min()) < float(drawn.rgb.max()) <= 1
    for name, leaves in gradient._asdict().items():
        for leaf in jax.tree.leaves(leaves):
            assert np.isfinite(leaf).all(), name
            assert leaf.any(), name
    assert all(float(value) > 0 for value in terms.values())
    later = slope(params, 50)[0][1][0]
    for name, value in later.items():
        ramp = 2 if name in GEOMETRIC else 1
        np.testing.assert_allclose(value, ramp * terms[name], rtol=1e-5)


def ball():
    """A camera and camera, key -> Rendering of a ball whose density rises inside of
    radius 0.5."""
    settings = {"coarse": 48, "fine": 48, "chunk": 100, "blob_scale": 1000.0}
    representation, params, state = blob(**settings)
    camera = orbit_camera(40.0, 25.0, 3.0, width=21, height=17)
    return camera, lambda c, k: representation.render(params, state, c, k)


@pytest.mark.slow
def test_a_ball_looks_like_a_ball():
    """Against 4000 points a ray in float64, and the sphere's own normals."""
    camera, draw = ball()
    draw = in_a_hurry(jax.jit(draw), camera, None)
    drawn = jax.device_get(draw(camera, None))
    origins, directions = (np.float64(a) for a in pixel_rays(camera))
    t = np.linspace(1.5, 4.5, 4001)
    places = origins[..., None, :] + t[:, None] * directions[..., None, :]
    u = 1000 * (1 - np.linalg.norm(places, axis=-1) / 0.5)
    tau = np.logaddexp(u, 0) * (t[1] - t[0])
    weights = np.exp(tau - np.cumsum(tau, axis=-1)) * -np.expm1(-tau)
    opacity = weights.sum(axis=-1)
    np.testing.assert_allclose(drawn.opacity, opacity, atol=0.02)
    np.testing.assert_allclose(
        drawn.rgb, (1 - 0.5 * drawn.opacity)[..., None] * np.ones(3), atol=1e-3
    )
    inner = opacity > 0.999
    assert 30 < inner.sum() < 100
    distance = (weights @ t)[inner]
    forward = directions @ np.float64(camera.world_to_camera)[2, :3]
    # the second pass has a point each .005 or so at the surface
    np.testing.assert_allclose(drawn.depth[inner], distance * forward[inner], atol=5e-3)
    seen = origins[inner] + distance[:, None] * directions[inner]
    seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
    np.testing.assert_allclose(drawn.normal[inner], seen, atol=0.02)
    empty = u.max(axis=-1) < -120  # exp of it is 0 in float32
    assert empty.any()
    assert not drawn.depth[empty].any()
    assert not drawn.normal[empty].any()


def test_backgrounds_come_from_the_key():
    camera, draw = ball()
    # the colours alone: without normals less is compiled
    render = in_a_hurry(jax.jit(lambda c, k: draw(c, k).rgb), camera, KEY)
    first, other = (np.asarray(render(camera, jax.random.key(k))) for k in (0, 1))
    assert np.abs(first[0, 0] - other[0, 0]).max() > 0.05
    np.testing.assert_allclose(first[0, 0], first[-1, -1], atol=1e-6)
    np.testing.assert_allclose(first[8, 10], 0.5, atol=1e-3)


def test_chunks_change_nothing():
    x = np.arange(2 * 7 * 3, dtype=np.float32).reshape(2, 7, 3)

    def draw(part):
        return {"length": jnp.sum(part**2, axis=-1), "twice": 2 * part}

    for chunk in (1, 4, 14, 100):
        got = jax.jit(lambda x, chunk=chunk: map_in_chunks(draw, x, chunk))(x)
        np.testing.assert_array_equal(got["length"], np.sum(x**2, axis=-1))
        np.testing.assert_array_equal(got["twice"], 2 * x)


def test_every_chunk_has_rays_of_the_whole_picture():
    """Also where there are as many chunks as columns, or twice as many."""
    mean = lambda part: jnp.broadcast_to(part.mean(), part.shape)  # noqa: E731
    for side, chunk in ((12, 24), (16, 16), (16, 8)):
        means = jax.jit(lambda x, chunk=chunk: map_in_chunks(mean, x, chunk))
        for place in np.meshgrid(np.arange(side), np.arange(side)):
            off = np.abs(np.asarray(means(place[..., None])) - (side - 1) / 2).max()
            # within the standard deviation of the mean of as many independent rays
            assert off < side / np.sqrt(12 * chunk)


@pytest.mark.parametrize("activation", ["softplus", "exp"])
def test_density_is_that_of_the_blob(activation):
    grid = hash_grid.make_grid(levels=1, log2_size=9)
    field = FieldSettings(grid, 1.0, 8, activation, 10.0, 0.5, 0, 0)
    shapes = jax.eval_shape(lambda key: init_field(key, field), KEY)
    params = as_ball(jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes))
    x = np.float32([[0.1, -0.2, 0.2], [0.5, 0.0, 0.0], [0.6, 0.6, 0.5]])
    u = 10 * (1 - np.linalg.norm(x, axis=-1) / 0.5)
    want = np.log1p(np.exp(u)) if activation == "softplus" else np.exp(u)
    density = jax.jit(lambda p, x: activate_density(field, raw_density(field, p, x)[0]))
    got = in_a_hurry(density, params, x)(params, x)
    np.testing.assert_allclose(got, want, rtol=2e-5)
    # exp ends at e^15
    activated = jax.jit(lambda u: activate_density(field, u))
    ends = activated(np.float32([14.9, 20.0]))
    want = [14.9, 20.0] if activation == "softplus" else np.exp([14.9, 15.0])
    np.testing.assert_allclose(ends, want, rtol=1e-5)


def test_normals_are_those_of_differences():
    """A small one for derivatives, a cell wide where that is asked for; float64."""
    field = FieldSettings(GRID, 1.5, 8, "softplus", 4.0, 0.5, 0, 0)
    assert finite_difference_step(field, None) == 3 / 5
    step = jax.jit(lambda weights: finite_difference_step(field, weights))
    np.testing.assert_allclose(step(np.float32([1, 0])), 3 / 3)
    with enable_x64(True):
        rng = np.random.default_rng(0)
        x = rng.uniform(-0.8, 0.8, (5, 3))
        shapes = jax.eval_shape(lambda key: init_field(key, field), KEY)
        params = jax.tree.map(lambda a: rng.normal(0, 0.3, a.shape), shapes)
        by = {
            how: jax.jit(
                lambda p, x, how=how: density_and_normals(field, p, x, None, how)
            )
            for how in NORMALS
        }
        (u, encoded), normals = in_a_hurry(by["analytic"], params, x)(params, x)
        _, wide = in_a_hurry(by["finite_difference"], params, x)(params, x)
        at = jax.jit(lambda params, x: raw_density(field, params, x)[0])
        at = in_a_hurry(at, params, x)
        assert encoded.shape == (5, 4)
        np.testing.assert_allclose(u, at(params, x), rtol=1e-12)
        for step, got, tolerance in ((1e-6, normals, 1e-6), (3 / 5, wide, 1e-12)):
            steps = step * np.eye(3)
            slope = [np.subtract(at(params, x + h), at(params, x - h)) for h in steps]
            slope = np.stack(slope, axis=-1)
            want = -slope / np.linalg.norm(slope, axis=-1, keepdims=True)
            np.testing.assert_allclose(got, want, atol=tolerance)


def test_light_by_hand():
    """Lambert's cosine; plain and textureless colours; where the light stands."""
    albedo, points = np.float32([[0.2, 0.4, 0.8]]), np.float32([[0.0, 0.0, 1.0]])
    normals = np.float32([[0.0, 0.0, 1.0]])
    eye = np.float32([0.0, 0.0, 3.0])

    @jax.jit
    def draw(key, lambertian, textureless):
        """2000 lights."""
        one = partial(
            shading.draw_light, lambertian=lambertian, textureless=textureless
        )
        return jax.vmap(one, (0, None))(jax.random.split(key, 2000), eye)

    compiled = jax.jit(shading.shade)
    shade = lambda *arguments: np.asarray(compiled(*arguments))  # noqa: E731
    plain = jax.tree.map(lambda a: np.asarray(a)[0], draw(KEY, 0.0, 0.0))
    np.testing.assert_allclose(shade(plain, albedo, normals, points), albedo)
    lights = jax.device_get(draw(KEY, 0.25, 0.5))
    length = np.linalg.norm(lights.position, axis=-1)
    cosine = lights.position[:, 2] / length
    assert cosine.min() > 0.5 - 1e-5
    assert 2.4 <= length.min() < length.max() <= 4.5 + 1e-5
    # four standard errors of a share of 2000 draws
    np.testing.assert_allclose(np.mean(lights.textured == 0), 0.5, atol=0.045)
    np.testing.assert_allclose(np.mean(lights.diffuse > 0), 0.75, atol=0.04)
    light = shading.Light(*map(np.float32, ([3.0, 0.0, 4.0], 0.9, 0.1, 1.0)))
    got = shade(light, albedo, normals, points)
    np.testing.assert_allclose(got, albedo * (0.9 / np.sqrt(2) + 0.1), rtol=1e-5)
    behind = shade(light, albedo, -normals, points)
    np.testing.assert_allclose(behind, 0.1 * albedo, rtol=1e-5)
    light = light._replace(textured=np.float32(0.0))
    blank = shade(light, albedo, -normals, points)
    np.testing.assert_allclose(blank, 0.1, rtol=1e-5)


def test_control_opens_the_band():
    """A level more each two steps from the second on; typed as before."""
    representation = nerf(**SMALL, band_first=1, band_start=2, band_every=2)
    state = jax.jit(lambda key: representation.init(key)[1])(KEY)
    shapes = jax.eval_shape(representation.init, KEY)[0]
    params = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    assert state.level_weights.tolist() == [1, 0]
    control = jax.jit(representation.control)
    before = [a.aval for a in jax.tree.leaves(state)]
    for step in range(6):
        _, state, _ = control(KEY, step, params, state, {})
        assert [a.aval for a in jax.tree.leaves(state)] == before
        want = np.clip((step + 1 - 2) / 2, 0, 1)
        np.testing.assert_allclose(state.level_weights, [1, want])


@pytest.mark.slow
def test_distillation_moves_it_and_opens_the_band():
    """The training step towards red pictures: types kept, no NaN, redder views."""
    representation = nerf(
        **SMALL, band_first=1, band_start=2, band_every=2, background=(1.0, 0.0, 0.0),
        occupancy=4, room=0.9,
    )  # fmt: skip
    schedule = NoiseSchedule.scaled_linear()

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        return NoisePrediction(**dict.fromkeys(branches, z_t))

    source = PriorSource(
        jnp.zeros(()), lambda params: Prior(schedule, noise, encode=lambda x: x)
    )
    estimator = Estimator(
        lambda *_: (),
        lambda prior, key, state, z, t, view: Estimate(
            z - jnp.array([1.0, -1.0, -1.0]), {}
        ),
    )
    optimizer = grouped_adam(
        {"tables": 0.05, "density": 0.01, "color": 0.05, "background": 0.0},
        fields=NerfParams._fields,
    )

    def cameras(key):
        return random_orbits(key, 1, OrbitRange(), width=8, height=8)

    parts = (source, representation, estimator, optimizer)
    step = make_train_step(
        *parts, lambda key, step, total, shape: jnp.full(shape, 500), cameras, total=10
    )
    start = jax.jit(lambda key: init_state(*parts, cameras, source.params, key))
    state = in_a_hurry(start, KEY)(KEY)
    assert state.rep_state.level_weights.tolist() == [1, 0]
    before = [a.aval for a in jax.tree.leaves(state)]
    quick = in_a_hurry(step, state, source.params, KEY)
    errors = []
    for i in range(6):
        state, metrics = quick(state, source.params, KEY)
        # typed as before, or the step would be traced again
        assert [a.aval for a in jax.tree.leaves(state)] == before
        assert bool(metrics["finite"])
        errors.append(float(metrics["grad_z"]))
        want = np.clip((i + 1 - 2) / 2, 0, 1)
        np.testing.assert_allclose(state.rep_state.level_weights, [1, want])
        # the blob fills the middle of the grid, and the camera sees past it
        assert 0 < metrics["control/occupied"] < 1
        assert 0 < metrics["control/samples"] < 11
        assert metrics["control/dropped"] == 0
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 0}, r"levels = 0 must be in 1\.\.32"),
        ({"kernel": 4}, "kernel = 4 must be odd"),
        ({"coarse": 1}, r"coarse = 1 must be in 2\.\."),
        ({"band_first": 3, "levels": 2}, r"band_first = 3 must be in 0\.\.2"),
        ({"lambertian": 0.7, "textureless": 0.5}, r"textureless = 0\.5 must be in 0"),
        ({"activation": "relu"}, "'relu'.*softplus, exp"),
        ({"normals": "sobel"}, "'sobel'.*analytic, finite_difference"),
        ({"z_reduction": "max"}, "'max'.*mean, counted, sum"),
        ({"view_degree": 4}, "degree 0, 1, 2 or 3"),
        ({"background": "blue"}, "'blue'.*'random'"),
        ({"background": (1.0, 0.0)}, "three numbers"),
        ({"losses": {"opacty": 1.0}}, "opacty.*opacity"),
        ({"scene": "sphere"}, "'sphere'.*box, contracted"),
        ({"proposal": 2}, r"losses\.interlevel"),
        ({"losses": {"interlevel": 1.0}}, "give proposal levels"),
        ({"proposal": 9}, r"proposal = 9 must be in 0\.\.8"),
        ({"proposal": 2, "losses": {"interlevel": 1.0}, "fine": 0}, "fine = 0"),
        ({"occupancy": 3}, r"occupancy = 3 .*4\.\.512"),
        ({"room": 0.5}, "occupancy grid"),
    ],
)
def test_bad_input_is_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        nerf(**settings)
    assert "\n" not in str(caught.value)
