"""Views in groups: cameras drawn together, one noise and one t a group."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jitted import random_orbits
from test_train_step import SCHEDULE, SIZE, flat_representation, gaussian_source

from sdsjax.cameras import OrbitRange, camera_angles, camera_position
from sdsjax.estimators import ESTIMATORS
from sdsjax.training.build.phases import build_phases
from sdsjax.training.config import ConfigError
from sdsjax.training.groups import (
    grouped_linear,
    into_groups,
    out_of_groups,
    render_keys,
)
from sdsjax.training.train_step import init_state, make_train_step, step_keys
from sdsjax.types import Linear, PriorSource

ORBIT = OrbitRange(distance=(2.9, 3.3), overhead_fraction=0.3)


angles = jax.jit(jax.vmap(camera_angles))


def grouped_source(group):
    plain = gaussian_source()
    return PriorSource(
        plain.params, lambda params: plain.bind(params)._replace(group=group)
    )


@pytest.mark.parametrize("group", [2, 4])
def test_cameras_of_a_group_stand_evenly_round_the_object(group):
    views = random_orbits(jax.random.key(0), 8, ORBIT, width=8, height=8, group=group)
    azimuth, elevation = angles(views)
    eyes = jax.jit(jax.vmap(camera_position))(views)
    distance, views = np.linalg.norm(eyes, axis=-1), jax.device_get(views)
    for values in (elevation, distance, views.focal[:, 0]):
        sets = np.asarray(values).reshape(-1, group)
        np.testing.assert_allclose(sets - sets[:, :1], 0, atol=1e-3)
    for values in (elevation, distance):
        assert len(np.unique(np.round(np.asarray(values)[::group], 4))) == 8 // group
    steps = np.diff(np.asarray(azimuth).reshape(-1, group), axis=1) % 360
    np.testing.assert_allclose(steps, 360 / group, atol=1e-2)


def test_a_narrow_range_is_shared_out_among_the_views():
    orbit = OrbitRange(azimuth=(-30.0, 50.0))
    views = random_orbits(jax.random.key(1), 4, orbit, width=8, height=8, group=4)
    azimuth = np.sort(angles(views)[0])
    np.testing.assert_allclose(np.diff(azimuth), 20.0, atol=1e-2)
    assert -30 <= azimuth[0] <= azimuth[-1] <= 50


def test_groups_of_one_are_the_views_as_they_were():
    one = random_orbits(jax.random.key(2), 4, ORBIT, width=8, height=8)
    same = random_orbits(jax.random.key(2), 4, ORBIT, width=8, height=8, group=1)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    z = jnp.arange(12.0).reshape(4, 3)
    assert into_groups(z, 1) is z
    np.testing.assert_array_equal(out_of_groups(into_groups(z, 2), 2), z)
    assert into_groups(z, 2).shape == (2, 2, 3)


def test_the_linear_maps_of_groups_are_those_of_views():
    matrix = jax.random.normal(jax.random.key(3), (4 * 3, 5))
    views = Linear(
        lambda g: g.reshape(-1) @ matrix, lambda d: (matrix @ d).reshape(4, 3)
    )
    groups = grouped_linear(views, 2)
    g, d = jnp.ones((2, 2, 3)), jnp.arange(5.0)
    np.testing.assert_array_equal(groups.pullback(g), views.pullback(g.reshape(4, 3)))
    pushed = groups.pushforward(d)
    np.testing.assert_array_equal(pushed.reshape(4, 3), views.pushforward(d))


@pytest.mark.slow
def test_a_step_draws_one_noise_and_one_t_a_group():
    """The step's gradient against estimates made by hand, group by group."""
    group, n, sizes = 2, 4, []
    source, representation = grouped_source(group), flat_representation()
    estimator = ESTIMATORS["sds"](SCHEDULE, guidance_scale=3.0)

    def sampler(key, step, total, shape):
        sizes.append(shape)
        return jax.random.randint(key, shape, 20, 980)

    def cameras(key):
        return random_orbits(key, n, ORBIT, width=SIZE, height=SIZE, group=group)

    optimizer, key = optax.sgd(1.0), jax.random.key(5)
    parts = source, representation, estimator, optimizer
    state = init_state(*parts, cameras, source.params, key)
    keys = step_keys(key, state.step)
    prior, views = source.bind(source.params), cameras(keys["camera"])
    t = sampler(keys["t"], 0, 1, (n // group,))
    expected = 0.0
    for g, (key_one, t_one) in enumerate(
        zip(jax.random.split(keys["estimate"], n // group), t)
    ):
        chosen = jax.tree.map(lambda v, g=g: v[g * group : (g + 1) * group], views)
        rgb = jax.vmap(
            lambda camera: representation.render(state.params, (), camera, None).rgb
        )(chosen)
        z = prior.encode(2.0 * rgb - 1.0)
        estimate = estimator.estimate(prior, key_one, (), z, t_one, None)
        # dz/dpixels = 3 * 2, the mean over the step's views
        expected = expected + 6.0 * estimate.grad.sum(0) / n
    before = np.asarray(state.params.pixels)
    step = make_train_step(*parts, sampler, cameras, total=1)
    new, metrics = step(state, source.params, key)
    np.testing.assert_allclose(
        before - new.params.pixels, expected, rtol=1e-4, atol=1e-5
    )
    assert set(sizes) == {(n // group,)}
    np.testing.assert_allclose(metrics["t"], jnp.mean(t.astype(jnp.float32)))


def test_a_learning_estimator_is_given_samples():
    """`learn` meets zs, ts, views and estimates of equal leading axes."""
    met = {}
    source, representation = grouped_source(2), flat_representation()
    base = ESTIMATORS["sds"](SCHEDULE)

    def learn(prior, key, state, zs, ts, views, estimates, linear):
        shapes = jax.tree.map(jnp.shape, (zs, ts, views.camera.focal, estimates.grad))
        met["shapes"], met["group"] = shapes, prior.group
        met["pulled"] = jax.tree.map(jnp.shape, linear.pullback(estimates.grad))
        return state

    estimator = base._replace(learn=learn)

    def cameras(key):
        return random_orbits(key, 6, ORBIT, width=SIZE, height=SIZE, group=2)

    parts = source, representation, estimator, optax.sgd(0.1)
    state = init_state(*parts, cameras, source.params, jax.random.key(0))
    step = make_train_step(
        *parts, lambda key, i, total, shape: jnp.full(shape, 300), cameras, total=1
    )
    jax.eval_shape(step, state, source.params, jax.random.key(0))
    z = (3, 2, SIZE, SIZE, 3)
    assert met["shapes"] == (z, (3,), (3, 2, 2), z)
    assert met["group"] == 2
    assert met["pulled"].pixels == (SIZE, SIZE, 3)


def test_a_batch_that_does_not_divide_is_one_line():
    from sdsjax.cli import checks

    config = checks.resolve("ssd", {"batch_size": 6})
    with pytest.raises(ConfigError, match="batch_size = 6 is no multiple of the 4"):
        build_phases(config, ORBIT, 4)
    assert build_phases(config, ORBIT, 3)[-1].batch_size == 6


def test_the_views_of_a_group_are_drawn_by_one_key():
    key = jax.random.key(3)
    keys = jax.random.key_data(render_keys(key, 6, 3)).reshape(2, 3, -1)
    np.testing.assert_array_equal(keys, np.repeat(keys[:, :1], 3, axis=1))
    assert (keys[0, 0] != keys[1, 0]).any()
    alone = jax.random.key_data(render_keys(key, 6, 1))
    np.testing.assert_array_equal(alone, jax.random.key_data(jax.random.split(key, 6)))
