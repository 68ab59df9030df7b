"""SDXL as a prior on a small folder: its branches, its empty prompt, its sizes, VSD."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera
from test_adapter import write

from sdsjax.estimators import ESTIMATORS
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.sdxl.folder import load_sdxl
from sdsjax.models.unets.sdxl import TextAndSize
from sdsjax.priors import stable_diffusion
from sdsjax.types import Linear, View

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import sdxl_folders as folders

HURRY = {"xla_backend_optimization_level": 0}
PIXELS = 2 * folders.SIDE
Z_T = np.random.default_rng(1).normal(size=(folders.SIDE, folders.SIDE, 4)).astype("f4")
T = jnp.int32(400)
LEFT = View(orbit_camera(90.0, 0.0))
NULL = View(jax.tree.map(np.zeros_like, LEFT.camera))
EVERY = ("cond", "uncond", "negative")
# one level, and text in the middle alone: where else is tests/models/test_sdxl's
ONE_LEVEL = {
    "attention_head_dim": [2],
    "block_out_channels": [16],
    "down_block_types": ["DownBlock2D"],
    "transformer_layers_per_block": [2],
    "up_block_types": ["UpBlock2D"],
}


def run(function, *arguments):
    return jax.jit(function, compiler_options=HURRY)(*arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sdxl")
    return str(folders.write_sdxl_folder(root, unet=ONE_LEVEL))


@pytest.fixture(scope="module")
def source(folder):
    return stable_diffusion.load(folder, "a red mug", "a cat", lora_rank=2)


@pytest.fixture(scope="module")
def answers(source):
    """view -> in numpy the prior's three branches and what its second network
    begins by saying, of one program; the null camera is none."""

    def both(params, view):
        prior = source.bind(params)
        psi = prior.adapter.init(jax.random.key(0))
        return prior.noise(Z_T, T, view, EVERY), prior.adapter.noise(psi, Z_T, T, view)

    compiled = jax.jit(both, compiler_options=HURRY)
    return lambda view: jax.device_get(compiled(source.params, view))


@partial(jax.jit, static_argnums=0)
def encoded(modules, params, ids, more_ids):
    """Both encoders' states side by side, and the second one's pooled text."""
    _, kept = modules[0].apply({"params": params[0]}, ids, capture_intermediates=True)
    # CLIP's small one has two layers: the first one's output is the last but one
    states = kept["intermediates"]["layers_0"]["__call__"][0]
    more, pooled = modules[1].apply({"params": params[1]}, more_ids)
    return jnp.concatenate([states, more], -1), pooled


def told(networks, *texts, size=PIXELS):
    """By hand: what the UNet is told of each text."""
    encoders = networks.text_encoder, networks.text_encoder_2
    texts = [*texts, *[""] * (3 - len(texts))]  # three: one program for any
    ids = networks.tokenizer(texts), networks.tokenizer_2(texts)
    modules, params = (e.module for e in encoders), [e.params for e in encoders]
    sizes = np.float32([[size, size, 0, 0, size, size]] * 3)
    return TextAndSize(*encoded(tuple(modules), params, *ids), sizes)


@pytest.mark.slow
def test_each_branch_is_the_network_told_its_own_text(folder, source, answers):
    assert source.image_shape == (PIXELS, PIXELS, 3)
    networks = load_sdxl(Path(folder))
    e, _ = answers(NULL)
    texts = told(networks, "a red mug", "a cat")
    blank = np.float32([1, 1, 0])  # no text: zeros in the place of states
    texts = texts._replace(
        states=texts.states * blank[:, None, None],
        pooled=texts.pooled * blank[:, None],
    )
    unet = partial(networks.unet.module.apply, {"params": networks.unet.params})
    expected = run(unet, np.stack([Z_T] * 3), jnp.stack([T] * 3), texts)
    found = e.cond, e.negative, e.uncond
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_empty_prompt_is_encoded_where_the_folder_says_so(folder, tmp_path):
    index = {"force_zeros_for_empty_prompt": False}
    root = folders.write_sdxl_folder(tmp_path, index=index, unet=ONE_LEVEL)
    plain, zeros = jax.device_get(
        [
            stable_diffusion.load(str(one), "a red mug").params.states
            for one in (root, folder)
        ]
    )
    expected = told(load_sdxl(root), "", "", "")
    np.testing.assert_allclose(
        plain.uncond.states, expected.states[0], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        plain.uncond.pooled, expected.pooled[0], rtol=1e-4, atol=1e-5
    )
    for states in (zeros.uncond, zeros.negative):
        assert not states.states.any()
        assert not states.pooled.any()
        np.testing.assert_array_equal(
            states.sizes, [*[PIXELS] * 2, 0, 0, *[PIXELS] * 2]
        )
    assert zeros.cond.pooled.any()


def test_view_words_and_pooled_text_follow_the_camera(source, answers):
    rows = jax.device_get(source.params.states.cond)
    assert rows.pooled.shape == (6, 12)
    assert np.abs(rows.pooled[0] - rows.pooled[-1]).max() > 1e-3
    (seen, _), (unseen, _) = answers(LEFT), answers(NULL)
    assert np.abs(seen.cond - unseen.cond).max() > 1e-4


def test_the_second_network_begins_as_the_network(source, answers):
    """Its LoRA lies in every block: two beneath the attention in the middle."""
    e, adapter = answers(LEFT)
    np.testing.assert_allclose(adapter, e.cond, rtol=1e-4, atol=1e-5)
    begin = source.bind(source.params).adapter.init
    psi = jax.eval_shape(begin, jax.random.key(0))
    deep = psi.factors["unet"]["mid_block"]["attentions_0"]
    assert {"transformer_blocks_0", "transformer_blocks_1"} <= set(deep)


@pytest.mark.slow
def test_perp_neg_changes_the_prompt_s_branch_alone(folder, source):
    folded = stable_diffusion.load(folder, "a red mug", perp_neg=True)

    def noise(source, params, view):
        return source.bind(params).noise(Z_T, T, view, ("cond", "uncond"))

    e = run(partial(noise, folded), folded.params, LEFT)
    plain = run(partial(noise, source), source.params, LEFT)
    np.testing.assert_allclose(e.uncond, plain.uncond, rtol=1e-4, atol=1e-5)
    assert jnp.abs(e.cond - plain.cond).max() > 1e-4


def test_perp_neg_mixes_every_part_of_a_text(folder):
    folded = stable_diffusion.load(folder, "a red mug", perp_neg=True)
    # between the front and the side: mixed in the bfloat16 of its states, sizes too
    # would be off by four pixels in a thousand
    half = folded.params
    states = jax.device_get(half.states)
    cond = states.cond._replace(states=states.cond.states.astype(jnp.bfloat16))
    uncond = states.uncond._replace(states=states.uncond.states.astype(jnp.bfloat16))
    half = half._replace(states=states._replace(cond=cond, uncond=uncond))
    view = View(orbit_camera(31.0, 0.0))

    def asked(states):
        told = []

        def predict(z_t, t, states):
            told.append(states)
            return jnp.zeros((states.pooled.shape[0], *z_t.shape))

        branches = ("cond", "uncond")
        stable_diffusion.perp_neg_noise(predict, states, Z_T, T, view, branches)
        return told[0].sizes

    sizes = run(asked, half.states)
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-6)


@pytest.mark.slow
def test_vsd_trains_a_lora_on_it(source):
    prior = source.bind(source.params)
    estimator = ESTIMATORS["vsd"](
        prior.schedule, guidance_scale=1.0, adapter_lr=1e-2, weighting="one"
    )
    linear = Linear(lambda g: g, lambda d: d)
    views = View(jax.tree.map(lambda leaf: leaf[None], LEFT.camera))

    def learn(params, key):
        bound = source.bind(params)
        state = estimator.init(bound, key, Z_T)
        grad = estimator.estimate(bound, key, state, Z_T, T, LEFT).grad

        def step(state, _):
            args = bound, key, state, Z_T[None], T[None], views, None, linear
            after = estimator.learn(*args)
            return after, after.loss

        state, losses = jax.lax.scan(step, state, None, length=12)
        return grad, losses, state.psi

    grad, losses, psi = run(learn, source.params, jax.random.key(3))
    # guidance 1: the direction is e_y - e_psi, and psi is still the base
    np.testing.assert_allclose(grad, 0.0, atol=1e-5)
    assert losses[-1] < 0.9 * losses[0]
    deep = psi.factors["unet"]["mid_block"]["attentions_0"]["transformer_blocks_1"]
    assert jnp.any(deep["attn2"]["to_k"]["up"])
    assert jnp.any(psi.camera["linear_2"]["kernel"])


@pytest.mark.slow
def test_a_second_network_of_its_own_kind(folder, source, tmp_path):
    named = folders.write_sdxl_folder(tmp_path / "xl", unet=ONE_LEVEL)
    both = stable_diffusion.load(
        folder, "a red mug", adapter_folder=str(named), lora_rank=2
    )

    def noise(source, params):
        adapter = source.bind(params).adapter
        return adapter.noise(adapter.init(jax.random.key(0)), Z_T, T, LEFT)

    found = run(partial(noise, both), both.params)
    own = run(partial(noise, source), source.params)
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-6)


def test_a_second_network_of_another_kind_is_refused(folder, tmp_path):
    other = write(tmp_path / "sd")
    with pytest.raises(ValueError, match="its UNet is Stable Diffusion's, the prior's"):
        stable_diffusion.load(folder, "a red mug", adapter_folder=other)
    with pytest.raises(
        ValueError, match="its UNet is Stable Diffusion XL's, the prior"
    ):
        stable_diffusion.load(other, "a red mug", adapter_folder=folder)


@pytest.fixture(scope="module")
def encoded_by_its_own(source):
    """A picture, and what the folder's own VAE makes of it."""
    x = np.random.default_rng(0).uniform(-1, 1, source.image_shape).astype("f4")
    return x, run(lambda p, x: source.bind(p).encode(x), source.params, x)


@pytest.mark.parametrize("beneath", ["vae", ""])
def test_another_vae(folder, encoded_by_its_own, tmp_path, beneath):
    """Beneath `vae/`, or alone at the top of a folder as sdxl-vae-fp16-fix has it."""
    folders.write_component(tmp_path, "vae", scaling_factor=0.5)
    named = tmp_path if beneath else tmp_path / "vae"
    other = stable_diffusion.load(folder, "a red mug", vae_folder=str(named))
    x, own = encoded_by_its_own
    z = run(lambda p, x: other.bind(p).encode(x), other.params, x)
    np.testing.assert_allclose(
        z, np.asarray(own) * (0.5 / 0.13025), rtol=1e-4, atol=1e-5
    )
    folders.write_component(tmp_path, "vae", latent_channels=8)
    with pytest.raises(LoaderError, match="in_channels = 4 does not fit its VAE") as e:
        stable_diffusion.load(folder, "a red mug", vae_folder=str(named))
    assert str(tmp_path) in str(e.value)


@pytest.mark.slow
def test_the_published_network_takes_every_size():
    """From shapes alone: nothing is allocated."""
    component = hub.COMPONENTS["unet"]
    config = component.read_config(folders.SDXL)
    shapes = hub.param_shapes("unet", config)
    shape = jax.ShapeDtypeStruct
    widths = (77, 2048), (1280,), (6,)
    text = TextAndSize(*(shape((2, *width), jnp.float32) for width in widths))
    module = component.module(config, dtype=jnp.bfloat16)
    apply = partial(jax.eval_shape, module.apply)
    for size in (512, 768, 1024):
        z = shape((2, size // 8, size // 8, 4), jnp.bfloat16)
        out = apply({"params": shapes}, z, shape((2,), jnp.int32), text)
        assert (out.shape, out.dtype) == (z.shape, z.dtype)
