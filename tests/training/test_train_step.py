"""The step against closed forms and finite differences, on a Gaussian prior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jitted import random_orbits

from sdsjax.cameras import OrbitRange
from sdsjax.diffusion import NoiseSchedule, alpha_sigma
from sdsjax.distributed.sharding import replicate
from sdsjax.estimators import ESTIMATORS
from sdsjax.training.optimizers import edit_moments, exponential_decay, grouped_adam
from sdsjax.training.train_step import KEY_NAMES, init_state, make_train_step, step_keys
from sdsjax.types import (
    Estimate,
    Estimator,
    NoisePrediction,
    Prior,
    PriorSource,
    Rendering,
    Representation,
    RowEdit,
)

SIZE = 4
SCHEDULE = NoiseSchedule.scaled_linear()


class Flat(NamedTuple):
    pixels: jax.Array
    bias: jax.Array
    alive: jax.Array


def gaussian_source(mean=0.5):
    """N(mean, I): e = sigma (z_t - alpha mean); the prompt shifts the mean by 1."""

    def attach(params):
        def noise(z_t, t, view=None, branches=("cond", "uncond")):
            alpha, sigma = alpha_sigma(SCHEDULE, t)
            shift = {"cond": 1.0, "uncond": 0.0, "negative": 0.0}
            return NoisePrediction(
                **{b: sigma * (z_t - alpha * (params + shift[b])) for b in branches}
            )

        return Prior(SCHEDULE, noise, encode=lambda x: 3.0 * x)

    return PriorSource(jnp.asarray(mean), attach)


def flat_representation(space="image", control=None, penalty=0.0):
    def init(key):
        pixels = 0.5 + 0.1 * jax.random.normal(key, (SIZE, SIZE, 3))
        return Flat(pixels, jnp.zeros(3), jnp.ones(SIZE, bool)), jnp.zeros(())

    def render(params, state, camera, key):
        del state, key
        rgb = params.pixels + params.bias + 0.01 * camera.world_to_camera[2, 3]
        flat = jnp.ones((SIZE, SIZE))
        return Rendering(rgb, flat, flat, rgb)

    def regularize(params, state, renderings, step):
        del state, step
        value = penalty * jnp.mean(renderings.rgb**2)
        return value, {"square": value}

    return Representation(init, render, space, regularize, control)


def constant_estimator(g=1.0, image=None):
    def estimate(prior, key, state, z, t, view):
        del prior, key, state, t, view
        image_grad = None if image is None else jnp.full_like(z, image)
        return Estimate(jnp.full_like(z, g), {"size": jnp.sum(z)}, image_grad)

    return Estimator(lambda prior, key, z_spec: (), estimate)


def assemble(representation=None, estimator=None, optimizer=None, n=2, **options):
    representation = representation or flat_representation()
    estimator = estimator or constant_estimator()
    optimizer = optimizer or optax.sgd(1.0)
    source = gaussian_source()
    cameras = partial(
        random_orbits, count=n, orbit=OrbitRange(), width=SIZE, height=SIZE
    )
    sampler = options.pop("sampler", lambda key, step, total, shape: jnp.full(shape, 9))
    step = make_train_step(
        source, representation, estimator, optimizer, sampler, cameras,
        total=10, **options,
    )  # fmt: skip
    key = jax.random.key(0)
    state = init_state(
        source, representation, estimator, optimizer, cameras, source.params, key
    )
    return step, state, source.params, key


@pytest.mark.parametrize(("space", "factor"), [("image", 6.0), ("latent", 1.0)])
def test_pulls_the_estimate_back_through_encoder_and_renderer(space, factor):
    # dz/dpixels = 2 * 3 in image space (x = 2 rgb - 1, encode = 3 x), 1 in latents.
    step, state, prior_params, key = assemble(flat_representation(space))
    before = np.asarray(state.params.pixels)
    state, metrics = step(state, prior_params, key)
    np.testing.assert_allclose(before - state.params.pixels, factor, rtol=1e-5)
    np.testing.assert_allclose(-state.params.bias, factor * SIZE**2, rtol=1e-5)
    assert state.params.alive.dtype == bool
    assert bool(state.params.alive.all())
    np.testing.assert_allclose(metrics["grad_z"], np.sqrt(3 * SIZE**2), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad/pixels"], factor * 48**0.5, rtol=1e-5)
    assert bool(metrics["finite"])


def test_image_gradient_joins_the_latent_one():
    step, state, prior_params, key = assemble(estimator=constant_estimator(1.0, 10.0))
    before = np.asarray(state.params.pixels)
    state, _ = step(state, prior_params, key)
    np.testing.assert_allclose(before - state.params.pixels, 6.0 + 20.0, rtol=1e-5)


def test_regulariser_flows_through_the_rendering():
    representation = flat_representation(penalty=5.0)
    step, state, prior_params, key = assemble(
        representation, constant_estimator(0.0), n=1
    )
    camera = random_orbits(
        step_keys(key, 0)["camera"], 1, OrbitRange(), width=SIZE, height=SIZE
    )

    def loss(pixels):
        one = jax.tree.map(lambda leaf: leaf[0], camera)
        params = state.params._replace(pixels=pixels)
        rendering = representation.render(params, None, one, None)
        return representation.regularize(params, None, rendering, 0)[0]

    expected = jax.jit(jax.grad(loss))(state.params.pixels)
    before = np.asarray(state.params.pixels)
    state, metrics = step(state, prior_params, key)
    np.testing.assert_allclose(before - state.params.pixels, expected, atol=1e-6)
    np.testing.assert_allclose(metrics["regularizer/square"], metrics["regularizer"])


def test_a_penalty_flows_through_rendering_image_and_parameters():
    """d/dp of mean((rgb - 1)^2) + mean(x) + mean(p): 2 (rgb - 1) + 2 + 1 over n."""

    def supervise(seen):
        assert seen.x.shape == (2, SIZE, SIZE, 3)
        square = jnp.mean((seen.renderings.rgb - 1) ** 2)
        return {"a": square, "b": jnp.mean(seen.x) + jnp.mean(seen.params.pixels)}

    parts = assemble(estimator=constant_estimator(0.0), supervise=supervise)
    step, state, prior_params, key = parts
    views = random_orbits(
        step_keys(key, 0)["camera"], 2, OrbitRange(), width=SIZE, height=SIZE
    )
    shift = 0.01 * np.mean(views.world_to_camera[:, 2, 3])
    before = np.asarray(state.params.pixels)
    state, metrics = step(state, prior_params, key)
    want = (2 * (before + shift - 1) + 2 + 1) / before.size
    np.testing.assert_allclose(before - state.params.pixels, want, atol=1e-6)
    total = metrics["regularizer/a"] + metrics["regularizer/b"]
    np.testing.assert_allclose(metrics["regularizer"], total, rtol=1e-5)


def test_sds_reaches_the_mode_of_a_gaussian_prior():
    # The prompt's Gaussian has mean 1.5 in z: pixels (1.5/3 + 1) / 2 = 0.75.
    sds = ESTIMATORS["sds"](SCHEDULE, guidance_scale=1.0, weighting="one")
    optimizer = optax.adam(optax.exponential_decay(0.05, 50, 0.3))

    def sampler(key, step, total, shape):
        return jax.random.randint(key, shape, 100, 600)

    parts = assemble(estimator=sds, optimizer=optimizer, n=8, sampler=sampler)
    step, state, prior_params, key = parts
    for _ in range(150):
        state, _ = step(state, prior_params, key)
    total = state.params.pixels + state.params.bias + 0.01 * 3.1
    np.testing.assert_allclose(np.mean(total), 0.75, atol=0.02)


def test_traced_once_and_donated():
    traces = []

    def sampler(key, step, total, shape):
        traces.append(total)
        return jnp.full(shape, 9)

    step, state, prior_params, key = assemble(sampler=sampler)
    state, prior_params = replicate((state, prior_params), None)
    first = state.params.pixels
    for _ in range(4):
        state, _ = step(state, prior_params, key)
    assert traces == [10]
    # Compiled once as well: the second call's arrays are the first one's outputs.
    assert step._cache_size() == 1
    assert first.is_deleted()
    assert int(state.step) == 4
    assert not prior_params.is_deleted()


def test_keys_depend_on_base_key_and_step_alone():
    key = jax.random.key(3)
    a, b = step_keys(key, jnp.int32(5)), step_keys(key, 5)
    seen = set()
    for name in KEY_NAMES:
        assert (jax.random.key_data(a[name]) == jax.random.key_data(b[name])).all()
        seen.add(tuple(np.asarray(jax.random.key_data(a[name])).tolist()))
    later = step_keys(key, 6)
    seen |= {
        tuple(np.asarray(jax.random.key_data(later[n])).tolist()) for n in KEY_NAMES
    }
    assert len(seen) == 2 * len(KEY_NAMES)


def test_learn_sees_linear_maps_that_are_adjoint():
    def learn(prior, key, state, zs, ts, views, estimates, linear):
        d_theta = jax.tree.map(
            lambda p: jax.random.normal(key, p.shape), linear.pullback(zs)
        )
        g_z = jax.random.normal(jax.random.fold_in(key, 1), zs.shape)
        back = linear.pullback(g_z)
        left = jnp.vdot(linear.pushforward(d_theta), g_z)
        products = [
            jnp.vdot(a, b)
            for a, b in zip(jax.tree.leaves(d_theta), jax.tree.leaves(back))
        ]
        return jnp.stack([left, sum(products), jnp.float32(zs.shape[0])])

    base = constant_estimator()
    estimator = Estimator(lambda *_: jnp.zeros(3), base.estimate, learn)
    step, state, prior_params, key = assemble(estimator=estimator)
    state, _ = step(state, prior_params, key)
    left, right, views = np.asarray(state.estimator_state)
    np.testing.assert_allclose(left, right, rtol=1e-3)
    assert views == 2


def test_pushforward_through_a_custom_vjp_is_a_central_difference():
    @jax.custom_vjp
    def double(x):
        return 2.0 * x

    double.defvjp(lambda x: (2.0 * x, None), lambda _, g: (2.0 * g,))
    plain = flat_representation("latent")

    def render(params, state, camera, key):
        rendering = plain.render(params, state, camera, key)
        return rendering._replace(rgb=double(rendering.rgb))

    def learn(prior, key, state, zs, ts, views, estimates, linear):
        ones = jax.tree.map(jnp.ones_like, linear.pullback(zs))
        return jnp.mean(linear.pushforward(ones))

    estimator = Estimator(
        lambda *_: jnp.zeros(()), constant_estimator().estimate, learn
    )
    parts = assemble(plain._replace(render=render), estimator)
    step, state, prior_params, key = parts
    state, _ = step(state, prior_params, key)
    # pixels and bias both move by one, doubled.
    np.testing.assert_allclose(state.estimator_state, 4.0, rtol=1e-3)


def test_learning_rate_of_every_group():
    fields = Flat._fields
    optimizer = grouped_adam({"pixels": 0.1, "bias": 0.01}, fields=fields)
    step, state, prior_params, key = assemble(optimizer=optimizer)
    before = jax.tree.map(np.asarray, state.params)
    state, _ = step(state, prior_params, key)
    # The first Adam step moves every element by its learning rate.
    np.testing.assert_allclose(before.pixels - state.params.pixels, 0.1, rtol=1e-4)
    np.testing.assert_allclose(before.bias - state.params.bias, 0.01, rtol=1e-4)
    with pytest.raises(ValueError, match=r"pixelz.*pixels, bias"):
        grouped_adam({"pixelz": 0.1}, fields=fields)
    np.testing.assert_allclose(exponential_decay(0.1, 0.01, 10)(25), 1e-3, rtol=1e-5)


def test_frozen_group_and_clipping():
    optimizer = grouped_adam({"pixels": 0.1}, fields=Flat._fields, clip_norm=1e-3)
    step, state, prior_params, key = assemble(optimizer=optimizer)
    before = np.asarray(state.params.bias)
    state, _ = step(state, prior_params, key)
    np.testing.assert_array_equal(before, state.params.bias)


def test_moments_follow_the_rows():
    edit = RowEdit(jnp.array([1, 0, 2, 2]), jnp.array([False, False, False, True]))

    def control(key, step, params, state, aux):
        assert aux["grads"].pixels.shape == params.pixels.shape
        return params._replace(pixels=params.pixels[edit.source]), state + 1, edit

    def estimate(prior, key, state, z, t, view):
        # A different direction in every row.
        rows = jnp.arange(1.0, SIZE + 1)[:, None, None]
        return Estimate(jnp.broadcast_to(rows, z.shape), {})

    estimator = Estimator(lambda *_: (), estimate)
    optimizer = grouped_adam({"pixels": 0.0, "bias": 0.1}, fields=Flat._fields)
    optimizer = optax.chain(optax.trace(0.9), optax.scale(0.0))
    representation = flat_representation("latent", control)
    step, state, prior_params, key = assemble(representation, estimator, optimizer)
    for _ in range(2):
        state, _ = step(state, prior_params, key)
    rows = np.asarray(state.opt_state[0].trace.pixels[:, 0, 0])
    g = np.arange(1.0, 5.0)
    once = np.array([g[1], g[0], g[2], 0.0])
    plain = 0.9 * once + g
    expected = np.array([plain[1], plain[0], plain[2], 0.0])
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    assert float(state.rep_state) == 2


def test_edit_reaches_both_moments_of_grouped_adam():
    params = Flat(jnp.zeros((4, 2)), jnp.zeros(3), jnp.ones(4, bool))
    optimizer = grouped_adam({"pixels": 0.1, "bias": 0.1}, fields=Flat._fields)
    grads = Flat(jnp.arange(8.0).reshape(4, 2), jnp.ones(3), jnp.zeros(4))
    _, opt_state = optimizer.update(grads, optimizer.init(params), params)
    edit = RowEdit(jnp.array([3, 1, 2, 3]), jnp.array([False, True, False, False]))
    edited = edit_moments(params, opt_state, edit)
    moments = [m for m in jax.tree.leaves(edited) if m.shape == (4, 2)]
    originals = [m for m in jax.tree.leaves(opt_state) if m.shape == (4, 2)]
    assert len(moments) == 2
    for moment, original in zip(moments, originals):
        np.testing.assert_array_equal(moment[0], original[3])
        np.testing.assert_array_equal(moment[1], 0.0)
        np.testing.assert_array_equal(moment[2], original[2])
