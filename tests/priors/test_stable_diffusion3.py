"""Stable Diffusion 3 as a prior on a small folder: flow matching end to end."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera

from sdsjax.estimators import ESTIMATORS
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.sd3 import folder as sd3
from sdsjax.models.mmdit import Text
from sdsjax.priors import stable_diffusion3
from sdsjax.types import Linear, View

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import sd3_folders as folders

HURRY = {"xla_backend_optimization_level": 0}
PIXELS = 2 * folders.SIDE
Z_T = np.random.default_rng(1).normal(size=(folders.SIDE, folders.SIDE, 4)).astype("f4")
T = jnp.int32(400)
EVERY = ("cond", "uncond", "negative")
LEFT = View(orbit_camera(90.0, 0.0))
# a block of each kind, first and last: one between is tests/models/test_sd3's
TWO_BLOCKS = {**folders.TRANSFORMER, "num_layers": 2, "dual_attention_layers": [0]}


def run(function, *arguments):
    return jax.jit(function, compiler_options=HURRY)(*arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sd3")
    return str(folders.write_sd3_folder(root, transformer=TWO_BLOCKS))


@pytest.fixture(scope="module")
def source(folder):
    return stable_diffusion3.load(folder, "a red mug", "a cat", lora_rank=2)


def told(encoders, *texts):
    """By hand: what the transformer is told of each text."""
    states, pooled = [], []
    for network, tokenizer in encoders.clips:
        apply = partial(network.module.apply, {"params": network.params})
        each, projected = run(apply, tokenizer(texts))
        states.append(np.asarray(each))
        pooled.append(np.asarray(projected))
    clip = np.zeros((len(texts), folders.LENGTH, folders.CONTEXT), np.float32)
    clip[..., :24] = np.concatenate(states, -1)
    more = np.zeros((len(texts), 256, folders.CONTEXT), np.float32)
    if encoders.third:
        network, tokenizer = encoders.third
        apply = partial(network.module.apply, {"params": network.params})
        more = np.asarray(run(apply, tokenizer(texts).ids))
    return Text(np.concatenate([clip, more], 1), np.concatenate(pooled, -1))


@pytest.mark.parametrize("t5", [pytest.param(True, marks=pytest.mark.slow), False])
def test_each_branch_is_the_network_s_velocity_as_noise(folder, source, t5):
    """eps = z_t + (1 - s) v, v at 1000 s: by hand, for every branch."""
    if not t5:
        source = stable_diffusion3.load(
            folder, "a red mug", "a cat", text_encoder_3=False
        )
    assert source.image_shape == (PIXELS, PIXELS, 3)
    form = {"variant": None, "dtype": jnp.float32}
    encoders = sd3.load_text(Path(folder), t5, **form)
    network = hub.load_component(folder, "transformer")
    apply = partial(network.module.apply, {"params": network.params})
    u = 401 / 1000
    s = 3 * u / (1 + 2 * u)
    e = run(lambda p: source.bind(p).noise(Z_T, T, None, EVERY), source.params)
    times = np.full(3, 1000 * s, np.float32)
    v = run(apply, np.stack([Z_T] * 3), times, told(encoders, "a red mug", "", "a cat"))
    np.testing.assert_allclose(e, Z_T + (1 - s) * v, rtol=1e-4, atol=2e-5)


def test_the_second_network_is_told_the_camera_and_lies_in_the_transformer(source):
    """From shapes: what vsd trains. That it learns is slow, below."""
    adapter = source.bind(source.params).adapter
    psi = jax.eval_shape(adapter.init, jax.random.key(0))
    out = jax.eval_shape(adapter.noise, psi, Z_T, T, LEFT)
    assert out.shape == Z_T.shape
    assert set(psi.factors) == {f"transformer_blocks_{i}" for i in range(2)}
    # of both streams, and of the image's own second attention
    assert {"to_q", "add_q_proj"} <= set(psi.factors["transformer_blocks_0"]["attn"])
    assert "to_v" in psi.factors["transformer_blocks_0"]["attn2"]
    assert set(psi.camera) == {"linear_1", "linear_2"}


@pytest.mark.slow
def test_latents_are_shifted_and_scaled(folder, source):
    """z = .7 (mean - .3), and back."""
    x = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3)).astype("f4")
    vae = hub.load_component(folder, "vae")

    def all_of(params, x):
        prior = source.bind(params)
        own = partial(vae.module.apply, {"params": vae.params})
        mean, _ = own(x[None], method="encode")
        z = prior.encode(x)
        return z, mean[0], prior.decode(z), own(mean, method="decode")[0]

    z, mean, decoded, expected = run(all_of, source.params, x)
    np.testing.assert_allclose(z, 0.7 * (mean - 0.3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_view_words_and_perp_neg(folder, source):
    def cond(source, params, view):
        return source.bind(params).noise(Z_T, T, view, ("cond", "uncond")).cond

    seen, unseen = (run(partial(cond, source), source.params, v) for v in (LEFT, None))
    assert jnp.abs(seen - unseen).max() > 1e-4
    folded = stable_diffusion3.load(folder, "a red mug", perp_neg=True)
    mixed = run(partial(cond, folded), folded.params, LEFT)
    assert jnp.abs(mixed - seen).max() > 1e-5


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        pytest.param("vsd", {}, marks=pytest.mark.slow),
        pytest.param("ism", {"steps": 1}, marks=pytest.mark.slow),
        pytest.param("sds_plus", {"steps": 2}, marks=pytest.mark.slow),
        pytest.param("nfsd", {}, marks=pytest.mark.slow),
    ],
)
def test_estimators_run_on_it_and_learn(source, name, hyper):
    """vsd among them: LoRA on the transformer's own projections, told the camera."""

    def step(params, key):
        prior = source.bind(params)
        estimator = ESTIMATORS[name](prior.schedule, **hyper)
        state = estimator.init(prior, key, Z_T)
        one = estimator.estimate(prior, key, state, Z_T, T, LEFT)
        batch = jax.tree.map(lambda a: a[None], (one, LEFT))
        linear = Linear(lambda g: g.sum(0), lambda d: d[None])
        zs, ts = Z_T[None], T[None]
        after = estimator.learn(prior, key, state, zs, ts, batch[1], batch[0], linear)
        return one.grad, state, after

    grad, before, after = run(step, source.params, jax.random.key(0))
    assert np.isfinite(grad).all()
    assert float(jnp.abs(grad).max()) > 0
    if name == "vsd":
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()), before.psi.factors, after.psi.factors
        )
        assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("text_encoder_2", "no subfolder text_encoder_2.*both CLIPs"),
        ("text_encoder_3", r"text_encoder_3: fetch it, or pass .*text_encoder_3=false"),
        ("transformer", "no subfolder transformer"),
        ("scheduler", "expected FlowMatchEulerDiscreteScheduler"),
        ("pooled", "pooled_projection_dim = 18; expected 17"),
        ("wide", "joint_attention_dim = 28; expected 12, the width of text_encoder_3"),
        ("vae", "in_channels = 4; expected 6"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, damage, words):
    root = folders.write_sd3_folder(tmp_path / "sd3", transformer=TWO_BLOCKS)
    if (root / damage).is_dir() and damage not in ("scheduler", "vae"):
        (root / damage).rename(tmp_path / "away")
    elif damage == "scheduler":
        folders.write_scheduler(root, _class_name="EulerDiscreteScheduler")
    elif damage == "pooled":
        folders.write_component(
            root, "text_encoder", {**folders.CLIP, "projection_dim": 5}
        )
    elif damage == "wide":
        folders.write_component(root, "text_encoder_3", {**folders.T5, "d_model": 12})
    else:
        folders.write_component(root, "vae", {**folders.VAE, "latent_channels": 6})
    with pytest.raises(LoaderError, match=words) as caught:
        stable_diffusion3.load(str(root), "a red mug")
    assert "\n" not in str(caught.value)


def test_an_image_size_that_does_not_fit_is_refused(folder):
    for size in (18, 32):
        with pytest.raises(ValueError, match=r"multiple of 4.*at most 28"):
            stable_diffusion3.load(folder, "a red mug", image_size=size)
