"""The Gaussians as a representation: contract, initial clouds, regularisers."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera, random_orbits

from sdsjax import losses
from sdsjax.cameras import OrbitRange
from sdsjax.render.splatting.project import Gaussians
from sdsjax.representations import REPRESENTATIONS
from sdsjax.representations.gaussians import REGULARIZERS, as_gaussians, gaussians

EVERY_LOSS = dict.fromkeys(REGULARIZERS, 0.5)


@pytest.fixture(scope="module")
def begun():
    representation = gaussians(count=30, sh_degree=1, losses=EVERY_LOSS)
    return representation, *jax.jit(representation.init)(jax.random.key(0))


def test_params_are_groups_of_learnt_arrays():
    representation = gaussians(count=30, sh_degree=1, losses=EVERY_LOSS)
    params, state = jax.eval_shape(representation.init, jax.random.key(0))
    shapes = {name: a.shape for name, a in params._asdict().items()}
    assert shapes == {
        "means": (30, 3),
        "log_scales": (30, 3),
        "quats": (30, 4),
        "opacity_logits": (30,),
        "sh": (30, 4, 3),
    }
    assert all(a.dtype == jnp.float32 for a in params)
    assert state.alive.dtype == bool
    joined = as_gaussians(params, state)
    assert isinstance(joined, Gaussians)
    assert joined.alive is state.alive


@pytest.mark.slow
def test_one_jitted_step_over_a_batch_of_views(begun):
    representation, params, state = begun
    cameras = random_orbits(jax.random.key(1), 2, OrbitRange(), width=24, height=16)
    keys = jax.random.split(jax.random.key(2), 2)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        views = jax.vmap(lambda c, k: representation.render(params, state, c, k))
        drawn = views(cameras, keys)
        assert drawn.rgb.shape == (2, 16, 24, 3)
        assert drawn.opacity.shape == drawn.depth.shape == (2, 16, 24)
        assert drawn.normal.shape == (2, 16, 24, 3)
        assert drawn.rgb.dtype == params.means.dtype
        total, terms = representation.regularize(params, state, drawn, 3)
        assert set(terms) == set(REGULARIZERS)
        assert total.shape == ()
        return total + jnp.sum(drawn.rgb**2)

    value, gradient = loss(params)
    assert np.isfinite(value)
    for name, slope in jax.device_get(gradient)._asdict().items():
        assert np.isfinite(slope).all(), name
        assert slope.any(), name


@pytest.mark.slow
def test_background_is_drawn_from_the_key_and_white_without(begun):
    representation, params, state = begun
    away = orbit_camera(0.0, 0.0, width=8, height=8, fov=10.0)
    nothing = params._replace(opacity_logits=params.opacity_logits - 50)
    render = jax.jit(lambda key: representation.render(nothing, state, away, key).rgb)
    first, again, other = (np.asarray(render(jax.random.key(k))) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.ptp(first, axis=(0, 1)).max() == 0
    assert np.abs(first - other).max() > 0.05
    plain = jax.jit(lambda: representation.render(nothing, state, away, None).rgb)()
    np.testing.assert_array_equal(plain, jnp.ones_like(plain))


@pytest.mark.parametrize("init", ["ball", "shell"])
def test_clouds_fill_what_they_say(init):
    representation = gaussians(count=4000, init=init, init_radius=0.5)
    begin = jax.jit(lambda key: representation.init(key)[0].means)
    means = np.asarray(begin(jax.random.key(3)))
    radius = np.linalg.norm(means, axis=1)
    mean = 0.375 if init == "ball" else 0.5
    np.testing.assert_allclose(radius.mean(), mean, atol=5e-3)
    assert radius.max() <= 0.5 + 1e-6
    np.testing.assert_allclose(means.mean(axis=0), 0, atol=0.02)


def test_points_scales_and_opacity_are_taken_as_given():
    points = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    settings = {"count": 7, "init": points, "init_scale": 0.03, "init_opacity": 0.25}
    begin = jax.jit(gaussians(**settings).init)
    params, _ = jax.device_get(begin(jax.random.key(1)))
    np.testing.assert_array_equal(params.means, points)
    np.testing.assert_allclose(np.exp(params.log_scales), 0.03, rtol=1e-5)
    opacity = 1 / (1 + np.exp(-params.opacity_logits))
    np.testing.assert_allclose(opacity, 0.25, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "cube"}, "'cube'.*ball, shell"),
        ({"init": np.zeros((2, 3))}, r"\(2, 3\).*\(5, 3\)"),
        ({"losses": {"opacty": 1.0}}, "opacty.*opacity"),
        ({"background": "blue"}, "'blue'.*'random'"),
        ({"background": (1.0, 0.0)}, "three numbers"),
        ({"init_opacity": 1.0}, "between 0 and 1"),
        ({"sh_degree": 4}, "degree 0, 1, 2 or 3"),
        ({"count": 0}, "at least one"),
    ],
)
def test_bad_input_is_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        gaussians(**{"count": 5, **settings})
    assert "\n" not in str(caught.value)


def test_factories_take_keywords_only():
    for factory in REPRESENTATIONS.values():
        kinds = {p.kind for p in inspect.signature(factory).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_losses_by_hand():
    compiled = functools.cache(jax.jit)

    def of(loss, *given):
        # each is dozens of operations, if they are not compiled whole
        return np.asarray(compiled(loss)(*given))

    scales = np.float32([[0.1, 0.2, 0.3], [1.0, 0.1, 0.01], [9.0, 9.0, 9.0]])
    mask = np.array([True, True, False])
    np.testing.assert_allclose(of(losses.mean_scale, scales, mask), (0.2 + 0.37) / 2)
    np.testing.assert_allclose(of(losses.anisotropy, scales, mask), 90 / 2, rtol=1e-5)
    means = np.float32([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [7.0, 7.0, 7.0]])
    np.testing.assert_allclose(of(losses.mean_distance, means, mask), 2.5, rtol=1e-5)
    np.testing.assert_allclose(
        of(losses.outside_ball, means, mask, 1.0), 8.0, rtol=1e-5
    )
    half = np.full((2, 4, 4), 0.5, np.float32)
    np.testing.assert_allclose(of(losses.binary_entropy, half), np.log(2), rtol=1e-6)
    least = -(1e-3 * np.log(1e-3) + (1 - 1e-3) * np.log(1 - 1e-3))
    for end in (0.0, 1.0):
        entropy = of(losses.binary_entropy, np.full((2, 2), end, np.float32))
        np.testing.assert_allclose(entropy, least, rtol=1e-4)
    ramp = np.float32(np.broadcast_to(np.arange(4)[:, None, None], (4, 5, 3)))
    np.testing.assert_allclose(of(losses.total_variation, ramp), 1.0)
    both = ramp + 2 * np.arange(5, dtype=np.float32)[None, :, None]
    np.testing.assert_allclose(of(losses.total_variation, both), 1.0 + 4.0)
    np.testing.assert_allclose(
        of(losses.sparsity, np.zeros((2, 2), np.float32)), 0.1, rtol=1e-6
    )
    assert of(losses.mean_opacity, np.ones(3, np.float32), np.zeros(3, bool)) == 0
