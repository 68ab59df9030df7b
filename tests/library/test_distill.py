"""`sdsjax.distill`: a foreign renderer gets the training step's own gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jitted import orbit_camera, random_orbits

import sdsjax
from sdsjax.cameras import OrbitRange
from sdsjax.diffusion import NoiseSchedule
from sdsjax.library.load_prior import LoadedPrior
from sdsjax.priors import gaussian_mixture
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.types import Estimate, Estimator, NoisePrediction, Prior, View

SCHEDULE = NoiseSchedule.scaled_linear()
SIZE = 4
KEY = jax.random.key(3)
HURRY = {"xla_backend_optimization_level": 0}


def mixture(group=1):
    """N(.4, .1) in x with the prompt, N(-.6, .1) besides without."""
    shape = (SIZE, SIZE, 3)
    means = jnp.stack([jnp.full(shape, 0.4), jnp.full(shape, -0.6)])
    prior = gaussian_mixture(SCHEDULE, [1.0, 1.0], means, [0.1, 0.1], [True, False])
    if group == 1:
        return prior
    noise = lambda z, t, view, branches: NoisePrediction(  # noqa: E731
        *(jnp.zeros_like(z) if b in branches else None for b in ("cond", "uncond"))
    )
    return prior._replace(group=group, noise=noise)


def render(params, camera):
    """Linear in theta and, by the pose, in the camera."""
    shade = params["shade"] if camera is None else (
        params["shade"] * camera.world_to_camera[2, 2]
    )  # fmt: skip
    return params["base"] + shade * jnp.linspace(0, 1, SIZE)[:, None, None]


def start():
    return {"base": jnp.full((SIZE, SIZE, 3), 0.3), "shade": jnp.float32(0.2)}


def test_the_gradient_is_the_estimate_pulled_back_to_the_caller_s_parameters():
    """An estimator of one's own that returns z: (dz / dtheta)^T z, z = 2 rgb - 1."""

    def own(schedule, *, factor):
        def estimate(prior, key, state, z, t, view):
            return Estimate(factor * z, {"size": jnp.sum(z**2)})

        return Estimator(lambda prior, key, z_spec: (), estimate)

    said = {"prior": mixture(), "estimator": own, "factor": 3.0, "t": 400}
    found = jax.jit(lambda p: sdsjax.distill(render, p, None, KEY, **said))(start())
    z = 2 * np.asarray(render(start(), None)) - 1
    np.testing.assert_allclose(found.grads["base"], 6 * z, rtol=1e-5)
    ramp = np.linspace(0, 1, SIZE)[:, None, None]
    np.testing.assert_allclose(found.grads["shade"], 6 * (z * ramp).sum(), rtol=1e-4)
    assert float(found.metrics["t"]) == 400
    np.testing.assert_allclose(found.metrics["estimate/size"], (z**2).sum(), rtol=1e-4)


@pytest.mark.slow
def test_ten_lines_reach_the_mode_of_the_prior():
    """As a user would: jit, optax, no config. x ends at .4, rgb at .7."""
    prior, adam = mixture(), optax.adam(0.02)

    @jax.jit
    def step(rgb, moments, key):
        found = sdsjax.distill(
            lambda p, c: p, rgb, None, key, prior=prior, guidance_scale=1.0
        )
        updates, moments = adam.update(found.grads, moments)
        return optax.apply_updates(rgb, updates), moments

    rgb = jnp.full((SIZE, SIZE, 3), 0.2)
    moments = adam.init(rgb)
    for i in range(150):
        rgb, moments = step(rgb, moments, jax.random.key(i))
    np.testing.assert_allclose(rgb.mean(), 0.7, atol=0.02)


@pytest.mark.slow
def test_views_are_averaged_and_vmap_is_the_loop():
    cameras = random_orbits(KEY, 2, OrbitRange(), width=SIZE, height=SIZE)
    prior = mixture()

    def of(params, key, cameras=cameras):
        return sdsjax.distill(render, params, cameras, key, prior=prior, t=300).grads

    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 0.1]), start())
    keys = jax.random.split(KEY)
    together = jax.jit(jax.vmap(of), compiler_options=HURRY)(batch, keys)
    alone = jax.jit(of, compiler_options=HURRY)
    for i in range(2):
        one = alone(jax.tree.map(lambda leaf, i=i: leaf[i], batch), keys[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6),
            together,
            one,
        )


def test_a_loaded_prior_is_an_argument_and_traces_once():
    traces = []
    bound = mixture()
    prior = LoadedPrior(jnp.float32(2.0), lambda p: bound._replace(
        noise=lambda *a, **how: jax.tree.map(lambda e: p * e, bound.noise(*a, **how))
    ))  # fmt: skip

    @jax.jit
    def step(params, key, prior):
        traces.append(1)
        how = {"prior": prior, "estimator": "mode_disengaging", "t": 300}
        return sdsjax.distill(render, params, None, key, **how).grads["base"]

    twice = step(start(), KEY, prior)
    once = step(start(), KEY, LoadedPrior(jnp.float32(1.0), prior.bind))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    assert len(traces) == 1


def test_leaves_that_do_not_float_get_zeros_and_states_go_on():
    params = {**start(), "kept": jnp.arange(3)}
    camera = orbit_camera(0.0, 0.0, width=SIZE, height=SIZE)

    def of(state):
        return sdsjax.distill(
            render, params, camera, KEY, prior=mixture(), estimator="vsd", state=state
        )

    shapes = jax.eval_shape(of, None)
    assert shapes.grads["kept"].dtype == params["kept"].dtype
    again = jax.eval_shape(of, shapes.state)
    assert jax.tree.structure(again.state) == jax.tree.structure(shapes.state)
    assert jax.tree.leaves(shapes.state)


def test_a_prior_of_groups_sees_the_views_and_their_cameras_together():
    seen = []
    prior = mixture(group=2)

    def noise(z, t, view, branches):
        assert isinstance(view, View)
        seen.append((z.shape, view.camera.focal.shape))
        return prior.noise(z, t, view, branches)

    cameras = random_orbits(KEY, 4, OrbitRange(), width=SIZE, height=SIZE, group=2)
    watched = prior._replace(noise=noise)
    jax.eval_shape(lambda: sdsjax.distill(render, start(), cameras, KEY, prior=watched))
    assert seen == [((2, SIZE, SIZE, 3), (2, 2))]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"estimator": "dreamfusion"}, "choose sds"),
        ({"render": lambda p, c: jnp.zeros((4, 4))}, r"\(height, width, 3\)"),
        ({"render": lambda p, c: jnp.zeros((4, 4, 3), jnp.int32)}, "floating"),
        ({"t": 1000}, r"0\.\.999"),
        ({"t": (-1, 20)}, r"0\.\.999"),
        ({"prior": "toybox-sd"}, "load_prior"),
        ({"prior": 2}, "multiple of 2"),  # a prior of groups of so many
        ({"camera": np.eye(4)}, "orbit_camera"),
        ({"guidance": 3}, "guidance"),
    ],
)
def test_a_mistake_is_one_line(change, word):
    known = {"render": render, "camera": None, "prior": 1, **change}
    if isinstance(known["prior"], int):
        known["prior"] = mixture(group=known["prior"])
    with pytest.raises((ValueError, TypeError), match=word) as caught:
        sdsjax.distill(params=start(), key=KEY, **known)
    assert "\n" not in str(caught.value)


def test_priors_are_loaded_by_name_and_their_mistakes_are_one_line():
    prior = sdsjax.load_prior("a red mug", view_prompts=False)
    assert prior.image_shape == (64, 64, 3)
    bound = jax.eval_shape(
        lambda p: p.bind(p.params).encode(jnp.zeros((64, 64, 3))), prior
    )
    assert bound.shape[-1] == 4
    assert isinstance(prior.bind(prior.params), Prior)
    for asked in (("a red elephant",), ("a red mug", "nowhere"), ("",)):
        with pytest.raises(ValueError, match=r".") as caught:
            sdsjax.load_prior(*asked)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_exact_prior_pulls_towards_the_true_picture_of_the_camera():
    """What a grey picture lacks of what the toybox draws there, before white."""
    small = {"resolution": 8, "vae_folder": "", "captions": (), "views": 1}
    prior = sdsjax.load_prior("a red mug", "exact", elevations=(15.0,), **small)
    camera = orbit_camera(40.0, 15.0, 2.95, fov=40.0, width=8, height=8)
    said = {"guidance_scale": 1.0, "weighting": "one", "t": 900, "prior": prior}

    @jax.jit
    def pulled(rgb, camera):
        return sdsjax.distill(
            lambda rgb, camera: rgb, rgb, camera, KEY, estimator="denoised_l2", **said
        ).grads

    grads = pulled(np.full((8, 8, 3), 0.5, np.float32), camera)
    specs, orbits = [parse_caption("a red mug")[0]], [(40.0, 15.0, 2.95)]
    truth = render_specs(specs, orbits, size=8, background=(1.0, 1.0, 1.0))[0]
    np.testing.assert_allclose(-grads / 2, 2 * truth - 1, atol=5e-3)
