"""The step against closed forms and finite differences, on a Gaussian prior."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdsjax.cameras import Camera
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


def front_views(key, n):
    """n cameras in front, at distances of 3.0 to 3.2 that the key draws.

    A fifth of what tracing and lowering a step with `random_orbits` takes goes to
    these, and the renderer below reads nothing but the distance.
    """
    distances = jax.random.uniform(key, (n,), minval=3.0, maxval=3.2)
    there = jnp.tile(jnp.eye(4), (n, 1, 1)).at[:, 2, 3].set(distances)
    twos = jnp.full((n, 2), SIZE / 2)
    return Camera(there, twos, twos, width=SIZE, height=SIZE)


drawn_distances = jax.jit(
    lambda key, n: front_views(step_keys(key, 0)["camera"], n).world_to_camera[:, 2, 3],
    static_argnums=1,
)


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
    cameras = partial(front_views, n=n)
    sampler = options.pop("sampler", lambda key, step, total, shape: jnp.full(shape, 9))
    step = make_train_step(
        source, representation, estimator, optimizer, sampler, cameras,
        total=10, **options,
    )  # fmt: skip
    key = jax.random.key(0)
    state = init_state(
        source, representation, estimator, optimizer, cameras, source.params, key
    )
    # Placed as a session places them: a second step then compiles nothing.
    state, prior_params = replicate((state, source.params), options.get("mesh"))
    return step, state, prior_params, key


@pytest.mark.parametrize(("space", "factor"), [("image", 6.0), ("latent", 1.0)])
def test_pulls_the_estimate_back_through_encoder_and_renderer(space, factor):
    # dz/dpixels = 2 * 3 in image space (x = 2 rgb - 1, encode = 3 x), 1 in latents.
    step, state, prior_params, key = assemble(flat_representation(space))
    before = np.asarray(state.params.pixels)
    state, metrics = step(state, prior_params, key)
    after = jax.tree.map(np.asarray, state.params)
    np.testing.assert_allclose(before - after.pixels, factor, rtol=1e-5)
    np.testing.assert_allclose(-after.bias, factor * SIZE**2, rtol=1e-5)
    assert after.alive.dtype == bool
    assert after.alive.all()
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
    # d/dp of 5 mean((p + bias + 0.01 distance)^2), the bias 0.
    (distance,) = np.asarray(drawn_distances(key, 1))
    before = np.asarray(state.params.pixels)
    expected = 5.0 * 2 * (before + 0.01 * distance) / before.size
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
    shift = 0.01 * np.mean(np.asarray(drawn_distances(key, 2)))
    before = np.asarray(state.params.pixels)
    state, metrics = step(state, prior_params, key)
    want = (2 * (before + shift - 1) + 2 + 1) / before.size
    np.testing.assert_allclose(before - state.params.pixels, want, atol=1e-6)
    total = sum(np.asarray(metrics[f"regularizer/{term}"]) for term in "ab")
    np.testing.assert_allclose(metrics["regularizer"], total, rtol=1e-5)


def test_sds_reaches_the_mode_of_a_gaussian_prior():
    # The prompt's Gaussian has mean 1.5 in z: pixels (1.5/3 + 1) / 2 = 0.75.
    sds = ESTIMATORS["sds"](SCHEDULE, guidance_scale=1.0, weighting="one")
    # Flags apart, of whose type Adam's moments would not stay: a second program.
    rate = optax.exponential_decay(0.05, 50, 0.3)
    rates = {"pixels": rate, "bias": rate}
    optimizer = grouped_adam(rates, fields=Flat._fields, b2=0.999, eps=1e-8)

    def sampler(key, step, total, shape):
        return jax.random.randint(key, shape, 100, 600)

    parts = assemble(estimator=sds, optimizer=optimizer, n=8, sampler=sampler)
    step, state, prior_params, key = parts
    for _ in range(150):
        state, _ = step(state, prior_params, key)
    total = np.asarray(state.params.pixels) + np.asarray(state.params.bias)
    total += 0.01 * 3.1
    np.testing.assert_allclose(np.mean(total), 0.75, atol=0.02)


def test_traced_once_and_donated():
    traces = []

    def sampler(key, step, total, shape):
        traces.append(total)
        return jnp.full(shape, 9)

    step, state, prior_params, key = assemble(sampler=sampler)
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
    words = jax.jit(
        lambda step: {
            k: jax.random.key_data(v) for k, v in step_keys(key, step).items()
        }
    )

    def each(step):
        return {name: tuple(data.tolist()) for name, data in step.items()}

    a, later = (each(jax.device_get(words(jnp.int32(step)))) for step in (5, 6))
    # A plain number, as without jit, gives the keys that a traced one gives.
    for name, named in step_keys(key, 5).items():
        assert tuple(np.asarray(jax.random.key_data(named)).tolist()) == a[name]
    assert a.keys() == later.keys() == set(KEY_NAMES)
    seen = {*a.values(), *later.values()}
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
    np.testing.assert_allclose(
        jax.jit(exponential_decay(0.1, 0.01, 10))(25), 1e-3, rtol=1e-5
    )


def test_frozen_group_and_clipping():
    optimizer = grouped_adam({"pixels": 0.1}, fields=Flat._fields, clip_norm=1e-3)
    step, state, prior_params, key = assemble(optimizer=optimizer)
    before = np.asarray(state.params.bias)
    state, _ = step(state, prior_params, key)
    np.testing.assert_array_equal(before, state.params.bias)


def test_moments_follow_the_rows():
    edit = RowEdit(np.array([1, 0, 2, 2]), np.array([False, False, False, True]))

    def control(key, step, params, state, aux):
        assert aux["grads"].pixels.shape == params.pixels.shape
        rows = jax.tree.map(jnp.asarray, edit)
        return params._replace(pixels=params.pixels[rows.source]), state + 1, rows

    def estimate(prior, key, state, z, t, view):
        # A different direction in every row.
        rows = jnp.arange(1.0, SIZE + 1)[:, None, None]
        return Estimate(jnp.broadcast_to(rows, z.shape), {})

    estimator = Estimator(lambda *_: (), estimate)
    trace = optax.trace(0.9, accumulator_dtype=np.float32)
    optimizer = optax.chain(trace, optax.scale(0.0))
    representation = flat_representation("latent", control)
    step, state, prior_params, key = assemble(representation, estimator, optimizer)
    for _ in range(2):
        state, _ = step(state, prior_params, key)
    rows = np.asarray(state.opt_state[0].trace.pixels)[:, 0, 0]
    g = np.arange(1.0, 5.0)
    once = np.array([g[1], g[0], g[2], 0.0])
    plain = 0.9 * once + g
    expected = np.array([plain[1], plain[0], plain[2], 0.0])
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    assert float(state.rep_state) == 2


def test_edit_reaches_both_moments_of_grouped_adam():
    zeros = partial(np.zeros, dtype=np.float32)
    params = Flat(zeros((4, 2)), zeros(3), np.ones(4, bool))
    optimizer = grouped_adam({"pixels": 0.1, "bias": 0.1}, fields=Flat._fields)
    ascending = np.arange(8, dtype=np.float32).reshape(4, 2)
    grads = Flat(ascending, zeros(3) + 1, zeros(4))
    edit = RowEdit(np.array([3, 1, 2, 3]), np.array([False, True, False, False]))

    @jax.jit
    def updated_and_edited(params, grads, edit):
        _, opt_state = optimizer.update(grads, optimizer.init(params), params)
        return opt_state, edit_moments(params, opt_state, edit)

    opt_state, edited = jax.device_get(updated_and_edited(params, grads, edit))
    moments = [m for m in jax.tree.leaves(edited) if m.shape == (4, 2)]
    originals = [m for m in jax.tree.leaves(opt_state) if m.shape == (4, 2)]
    assert len(moments) == 2
    for moment, original in zip(moments, originals):
        np.testing.assert_array_equal(moment[0], original[3])
        np.testing.assert_array_equal(moment[1], 0.0)
        np.testing.assert_array_equal(moment[2], original[2])
