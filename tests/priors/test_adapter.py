"""VSD's second network on a small random folder: base at first, the view's prompt, its
camera, v-prediction, another folder beneath."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera
from test_stable_diffusion import TEXT, UNET, VAE, random_params

from sdsjax.models.loading import hub
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer
from sdsjax.models.unets.lora import Lora
from sdsjax.priors import stable_diffusion
from sdsjax.types import View

WORDS = ["red", "cat", "front", "view", "left", "right", "side", "back", "overhead"]
SHORT = ["red", "cat", "view", "overhead", "side", "right", "front", "left"]
LEFT = View(orbit_camera(90.0, 0.0))
NULL = View(jax.tree.map(np.zeros_like, LEFT.camera))


def write(folder, *, seed=0, unet=UNET, words=WORDS, **scheduler):
    words = train_word_tokenizer(words)
    text = TEXT._replace(vocab_size=len(words[0]), hidden=unet.context)
    return str(
        save_stable_diffusion(
            folder,
            unet=(unet, random_params("unet", unet, seed)),
            vae=(VAE, random_params("vae", VAE, 1)),
            text_encoder=(text, random_params("text_encoder", text, 2)),
            tokenizer=words,
            **scheduler,
        )
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def velocity(tmp_path_factory):
    """Another network: other weights and text width, v-prediction."""
    unet = UNET._replace(context=24)
    return write(
        tmp_path_factory.mktemp("velocity"), seed=7, unet=unet, words=SHORT,
        prediction_type="v_prediction",
    )  # fmt: skip


@pytest.fixture(scope="module")
def source(plain):
    return stable_diffusion.load(plain, "red cat", lora_rank=2)


@pytest.fixture(scope="module")
def noisy():
    z_t = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
    return z_t, jnp.int32(400)


def drawn(shapes):
    return jax.tree.map(lambda s: jnp.ones(s.shape), shapes)


def begun(source):
    key = jax.random.key(1)
    return jax.jit(lambda p: source.bind(p).adapter.init(key))(source.params)


def adapter_noise(source):
    return jax.jit(lambda p, *args: source.bind(p).adapter.noise(*args))


@pytest.fixture(scope="module")
def psi(source):
    return begun(source)


@pytest.fixture(scope="module")
def call(source):
    """The adapter's noise, (parameters, psi, z_t, t, view) -> noise."""
    return adapter_noise(source)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["own", "named"])
def test_begins_as_the_network_beneath(
    plain, velocity, source, psi, call, noisy, adapter
):
    network = source
    if adapter == "named":
        network = stable_diffusion.load(velocity, "red cat")
        source = stable_diffusion.load(
            plain, "red cat", adapter_folder=velocity, lora_rank=2
        )
        psi, call = begun(source), adapter_noise(source)
    assert isinstance(psi, Lora)
    want = jax.jit(lambda p, *args: network.bind(p).noise(*args, ("cond",)).cond)
    found = call(source.params, psi, *noisy, LEFT)
    np.testing.assert_allclose(
        found, want(network.params, *noisy, LEFT), rtol=1e-4, atol=1e-5
    )
    # the null camera: no view words and no pose, as without any camera
    null = call(source.params, psi, *noisy, NULL)
    assert jnp.abs(found - null).max() > 1e-4
    if adapter == "own":
        none = call(source.params, psi, *noisy, None)
        np.testing.assert_allclose(null, none, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_learns_by_gradient_and_leaves_the_base_alone(source, psi, noisy):
    eps = jax.random.normal(jax.random.key(3), noisy[0].shape)

    @jax.jit
    @jax.value_and_grad
    def loss(both):
        params, psi = both
        found = source.bind(params).adapter.noise(psi, *noisy, LEFT)
        return jnp.mean((found - eps) ** 2)

    psi = jax.device_get(psi)
    first, _ = loss((source.params, psi))
    for _ in range(5):
        value, (base, slope) = jax.device_get(loss((source.params, psi)))
        size = np.sqrt(sum(np.vdot(g, g) for g in jax.tree.leaves(slope)))
        psi = jax.tree.map(lambda p, g, n=size: p - 0.02 * g / n, psi, slope)
    assert value < first
    assert all(not leaf.any() for leaf in jax.tree.leaves(base))
    moved = psi.factors["mid_block"]["attentions_0"]["transformer_blocks_0"]
    assert np.abs(moved["attn2"]["to_k"]["up"]).max() > 0


def test_mapped_over_views_it_is_one_batch(source, psi, call, noisy):
    """As many convolutions as for one view, each over the whole batch."""
    around = jax.jit(jax.vmap(lambda a: orbit_camera(a, 0.0)))
    cameras = around(np.float32([0.0, 90.0, 180.0]))
    z_t = np.stack([noisy[0]] * 3)

    def mapped(params, *args):
        return jax.vmap(partial(call, params), (None, 0, None, 0))(*args)

    one = call.lower(source.params, psi, *noisy, LEFT)
    many = jax.jit(mapped).lower(source.params, psi, z_t, noisy[1], View(cameras))
    for kind in ("stablehlo.convolution", "stablehlo.dot_general"):
        assert one.as_text().count(kind) == many.as_text().count(kind) > 0
    found = many.compile()(source.params, psi, z_t, noisy[1], View(cameras))
    alone = one.compile()(source.params, psi, *noisy, LEFT)
    np.testing.assert_allclose(np.asarray(found)[1], alone, rtol=1e-4, atol=1e-5)


def test_costs_nothing_where_it_is_not_called(plain, source, noisy):
    assert source.params.adapter is None
    psi = jax.eval_shape(
        lambda p: source.bind(p).adapter.init(jax.random.key(0)), source.params
    )
    for call in (
        lambda p: source.bind(p).noise(*noisy, None).cond,
        lambda p: source.bind(p).adapter.noise(drawn(psi), *noisy, None),
    ):
        constants = jax.make_jaxpr(call)(source.params).consts
        assert sum(np.size(c) for c in constants) < 5000  # the schedule's alone
    named = stable_diffusion.load(plain, "red cat", adapter_folder=plain)
    assert named.params.adapter is None  # the same folder is read once


def test_another_folder_is_the_second_network_s_base(plain, velocity):
    """Its UNet and its own text's width; what it says is slow, above."""
    source = stable_diffusion.load(plain, "red cat", adapter_folder=velocity)
    own = hub.load_stable_diffusion(velocity)
    jax.tree.map(
        np.testing.assert_array_equal, source.params.adapter.unet, own.unet.params
    )
    psi = jax.eval_shape(source.bind(source.params).adapter.init, jax.random.key(0))
    key = psi.factors["mid_block"]["attentions_0"]["transformer_blocks_0"]["attn2"]
    assert key["to_k"]["down"].shape[0] == 24


@pytest.mark.slow
def test_perp_neg_is_folded_into_cond(plain, source, noisy):
    bare, source = source, stable_diffusion.load(plain, "red cat", perp_neg=True)
    every = ("negative", "cond", "uncond")
    e = jax.jit(lambda p, v: source.bind(p).noise(*noisy, v, every))
    plainly = jax.jit(lambda p, v: bare.bind(p).noise(*noisy, v, every))
    folded, null = e(source.params, LEFT), e(source.params, NULL)
    without, plain_null = plainly(bare.params, LEFT), plainly(bare.params, NULL)
    for branch in ("uncond", "negative"):
        ours, theirs = getattr(folded, branch), getattr(without, branch)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    # the null camera has no sides; at the side, the front is pushed away
    np.testing.assert_allclose(null.cond, plain_null.cond, rtol=1e-4, atol=1e-5)
    assert jnp.abs(folded.cond - without.cond).max() > 1e-4
    # at 90 degrees the positive prompt is the side's alone: what was added is
    # perpendicular to its direction
    added = np.ravel(folded.cond - without.cond)
    direction = np.ravel(without.cond - without.uncond)
    cosine = added @ direction / np.linalg.norm(added) / np.linalg.norm(direction)
    assert abs(cosine) < 1e-3


def test_another_kind_of_network_is_refused(plain, tmp_path):
    wide = write(tmp_path / "a", unet=UNET._replace(in_channels=8))
    with pytest.raises(ValueError, match="in_channels = 8; expected 4"):
        stable_diffusion.load(plain, "red cat", adapter_folder=wide)
    other = write(tmp_path / "b", beta_schedule="linear")
    with pytest.raises(ValueError, match="its noise schedule is not the prior's"):
        stable_diffusion.load(plain, "red cat", adapter_folder=other)
