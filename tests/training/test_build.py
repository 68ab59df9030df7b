"""A config becomes pieces: shapes, groups, phases, and every prior by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.cameras import OrbitRange
from sdsjax.cli.checks import resolve
from sdsjax.training.build import background_of, build, build_phases
from sdsjax.training.config import ConfigError

MIXTURE = {"prior.name": "gaussian_mixture", "resolution": 8}


def predicted(pieces, z_t, t, branches=("cond", "uncond")):
    """What the bound prior predicts, and (alpha, sigma) at t; compiled whole."""
    prior = pieces.source.bind(pieces.source.params)
    e = jax.jit(lambda z_t: prior.noise(z_t, jnp.int32(t), None, branches))(z_t)
    levels = pieces.schedule.alphas, pieces.schedule.sigmas
    return jax.device_get(e), [np.asarray(values)[t] for values in levels]


def pieces_of(name="ssd", **overrides):
    return build(resolve(name, {**MIXTURE, **overrides}))


@pytest.mark.parametrize("name", ["ssd", "sds", "ssd:image", "sds:image"])
def test_the_pieces_fit_together(name):
    pieces = pieces_of(name, **{} if ":" in name else {"representation.count": 5})

    def one_view(key, source_params):
        params, state = pieces.representation.init(key)
        prior = pieces.source.bind(source_params)
        camera = jax.tree.map(lambda leaf: leaf[0], pieces.phases[-1].cameras(key))
        z = pieces.representation.render(params, state, camera, key).rgb
        t = pieces.sampler(key, 0, 10, ())
        memory = pieces.estimator.init(prior, key, z)
        estimate = pieces.estimator.estimate(prior, key, memory, z, t, None)
        moments = pieces.optimizer.init(params)
        return estimate.grad, params, pieces.optimizer.update(params, moments, params)

    key = jax.random.key(0)
    grad, params, (updates, _) = jax.eval_shape(one_view, key, pieces.source.params)
    assert grad.shape == pieces.image_shape
    assert pieces.fields == params._fields
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_priors_can_be_bound_inside_jit():
    pieces = pieces_of()
    z = np.ones(pieces.image_shape, np.float32)

    def noise(params):
        return pieces.source.bind(params).noise(z, jnp.int32(500), None).cond

    inside, (outside, _) = (
        jax.jit(noise)(pieces.source.params),
        predicted(pieces, z, 500),
    )
    np.testing.assert_allclose(inside, outside.cond, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loras",
    [
        ("a.safetensors", 0.8),
        (("a.safetensors",),),
        (("a.safetensors", True),),
        ((3, 0.8),),
    ],
)
def test_loras_that_are_no_pairs_are_one_line(loras):
    with pytest.raises(ValueError, match=r"prior\.loras: .* expected pairs") as caught:
        build(resolve("ssd:toybox", {"prior.loras": loras}))
    assert "\n" not in str(caught.value)


def test_the_mixture_keeps_what_the_prompt_keeps():
    red = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    pieces = pieces_of(**{"prior.means": red, "prior.conditional": (True, False)})
    z_t = np.zeros(pieces.image_shape, np.float32)
    e, (alpha, sigma) = predicted(pieces, z_t, 999)
    at_red = np.asarray([1.0, -1.0, -1.0])
    total = alpha**2 * 0.01 + sigma**2
    np.testing.assert_allclose(e.cond[0, 0], -sigma * alpha * at_red / total, rtol=1e-4)
    assert float(e.uncond[0, 0, 2]) > float(e.cond[0, 0, 2]) - 1.0


@pytest.mark.slow
def test_the_empirical_prior_is_made_of_true_renders():
    pieces = pieces_of(
        **{
            "prior.name": "empirical",
            "prior.captions": ("a red cube",),
            "prior.views": 2,
            "resolution": 16,
        }
    )
    images = pieces.source.params.images
    assert images.shape == (4, 16, 16, 3)
    images = np.asarray(images)
    alpha = np.asarray(pieces.schedule.alphas)[20]
    e, (alpha, sigma) = predicted(pieces, alpha * images[0], 20)
    np.testing.assert_allclose(
        (alpha * images[0] - sigma * e.cond) / alpha, images[0], atol=1e-3
    )
    assert np.abs(images[0] - images[2]).mean() > 0.05


def test_a_negative_prompt_keeps_its_own_renders():
    given = {
        "prior.name": "empirical",
        "prior.captions": ("a red cube",),
        "prior.views": 2,
        "resolution": 16,
    }
    pieces = pieces_of(**given, **{"negative_prompt": "a red cube"})
    cube = np.asarray(pieces.source.params.images)[2]
    noised = np.asarray(pieces.schedule.alphas)[20] * cube
    e, (alpha, sigma) = predicted(pieces, noised, 20, ("cond", "negative"))
    at = [(alpha * cube - sigma * branch) / alpha for branch in (e.negative, e.cond)]
    np.testing.assert_allclose(at[0], cube, atol=1e-3)
    assert np.abs(at[1] - cube).mean() > 0.05
    with pytest.raises(ConfigError, match=r"prior\.captions"):
        pieces_of(**given, **{"negative_prompt": "a blue cube"})
    with pytest.raises(ConfigError, match="cubez"):
        pieces_of(**given, **{"negative_prompt": "a red cubez"})


@pytest.mark.parametrize(
    "option",
    [
        {"representation.proposal": 1, "losses.interlevel": 1.0},
        {"representation.background_degree": 1},
    ],
)
def test_whatever_a_field_can_learn_has_a_learning_rate(option):
    small = {"representation.levels": 1, "representation.hidden": 4}
    pieces = pieces_of("nerf", **small, **option)

    def first_update():
        params, _ = pieces.representation.init(jax.random.key(0))
        moments = pieces.optimizer.init(params)
        return pieces.optimizer.update(jax.tree.map(jnp.ones_like, params), moments)

    updates, _ = jax.jit(first_update)()
    for name, update in updates._asdict().items():
        assert all((np.asarray(v) < 0).all() for v in jax.tree.leaves(update)), name


def test_learning_rates_go_to_their_groups():
    pieces = pieces_of(
        **{
            "representation.count": 5,
            "optimizer.lr.means": 0.5,
            "optimizer.lr.sh": 0.0,
            "optimizer.lr_final_factor": 1.0,
        }
    )

    @jax.jit
    def first_update():
        params, _ = pieces.representation.init(jax.random.key(0))
        grads = jax.tree.map(jnp.ones_like, params)
        return pieces.optimizer.update(grads, pieces.optimizer.init(params), params)

    updates, _ = first_update()
    # Adam's first step has the learning rate's size
    np.testing.assert_allclose(updates.means, -0.5, rtol=1e-4)
    np.testing.assert_allclose(updates.log_scales, -0.01, rtol=1e-4)
    np.testing.assert_array_equal(updates.sh, 0.0)


def test_groups_without_a_rate_are_refused():
    with pytest.raises(ConfigError, match="pixels"):
        pieces_of(**{"representation.name": "image"})


def test_phases_cover_every_step_once():
    config = resolve("ssd:sd21")
    first, second = build_phases(config, OrbitRange())
    assert (first.first, first.last, second.first, second.last) == (
        0,
        5000,
        5000,
        15000,
    )
    assert (first.resolution, first.batch_size) == (64, 8)
    cameras = jax.eval_shape(first.cameras, jax.random.key(0))
    assert cameras.world_to_camera.shape == (8, 4, 4)
    assert (cameras.width, cameras.height) == (64, 64)
    (only,) = build_phases(resolve("ssd"), OrbitRange())
    assert (only.first, only.last) == (0, 600)


def test_milestones_are_phases_between_the_first_and_the_last():
    said = {
        "steps": 100,
        "camera.milestones": "((40, 32, 2), (90, 48, 1))",
    }
    config = resolve("ssd", {**said, "camera.first_steps": 20})
    phases = build_phases(config, OrbitRange())
    assert [phase[:4] for phase in phases] == [
        (0, 20, 64, 4), (20, 40, 32, 2), (40, 90, 48, 1), (90, 100, 64, 4),
    ]  # fmt: skip
    first, *_ = build_phases(resolve("ssd", said), OrbitRange())
    assert first[:4] == (0, 40, 32, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("(40, 32, 2)", "triples"),
        ("((40, 32),)", "triples"),
        ("((40, 32.5, 1),)", "triples"),
        ("((40, 32, 2), (40, 48, 1))", "after step 40"),
        ("((40, 4, 2),)", r"resolution in 8\.\.2048"),
        ("((40, 32, 2), (900, 32, 2))", "step 900, after steps = 600"),
    ],
)
def test_bad_milestones_are_one_line(value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve("ssd", {"camera.milestones": value})
    assert "\n" not in str(caught.value)


GAUSSIANS = {"representation.count": 5, "prompt": "a red mug", "resolution": 16}


def test_a_depth_loss_without_an_estimate_is_refused_in_one_line():
    for key, more in (
        ("losses.depth", {}),
        ("reference.weight_depth", {"reference.path": "toybox"}),
    ):
        with pytest.raises(ConfigError, match=rf"{key} needs.*depth_folder") as caught:
            pieces_of(**GAUSSIANS, **more, **{key: 1.0})
        assert "\n" not in str(caught.value)


def test_references_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    for path, message in (
        (tmp_path / "none.png", r"reference\.path.*does not exist"),
        (tmp_path, r"cameras\.json"),
    ):
        with pytest.raises(ConfigError, match=message):
            pieces_of(**GAUSSIANS, **{"reference.path": str(path)})
    with pytest.raises(ConfigError, match="with cameras"):
        pieces_of("ssd:image", **{"reference.path": "toybox"})


def test_nothing_is_asked_unless_a_config_asks():
    plain = pieces_of(**GAUSSIANS)
    assert plain.supervise is None
    guided = pieces_of(**GAUSSIANS, **{"reference.path": "toybox"})
    assert guided.supervise is not None
    own, given = guided.source.params
    assert jax.tree.structure(own) == jax.tree.structure(plain.source.params)
    assert given.rgb.shape == (1, 16, 16, 3)
    # the true mug from the front: red, and covering part of the picture
    rgb, mask = np.asarray(given.rgb), np.asarray(given.mask)
    assert 0.1 < mask.mean() < 0.6
    seen = rgb[mask > 0.9]
    assert seen[:, 0].mean() > 2 * seen[:, 1].mean()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("random", "random"),
        ("white", (1.0, 1.0, 1.0)),
        ("0,0.5,1", (0.0, 0.5, 1.0)),
        ("(0, 0.5, 1)", (0.0, 0.5, 1.0)),
    ],
)
def test_background(text, value):
    assert background_of(text) == value


@pytest.mark.parametrize("text", ["", "blue", "1,1", "0,0,2", "0,0,nan", "1,2,3,4"])
def test_background_refuses(text):
    with pytest.raises(ConfigError, match=r"r,g,b"):
        background_of(text)
