"""The multi-view prior on a tiny folder: cameras, groups, branches, the adapter."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.cameras import (
    OrbitRange,
    camera_numbers,
    plucker_rays,
    random_orbits,
    resize_camera,
)
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer, train_word_tokenizer
from sdsjax.models.unets.multiview import MultiViewConfig
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig
from sdsjax.priors import multiview, stable_diffusion
from sdsjax.types import View

SIDE, PIXELS, T = 4, 8, jnp.int32(400)
# views meet in the middle alone: where else is tests/models/test_multiview's
UNET = UNetConfig(*(4, 4, (8,), (1,), (False,), (False,), 1, 4, 1e-5, 8, True, SIDE))
TOLD = MultiViewConfig(UNET, rays=True, code_tokens=1, code_width=8)
WORDS = ["a", "red", "blue", "mug"]


def random_params(name, config):
    shapes = hub.param_shapes(name, config)
    draw = np.random.default_rng(len(jax.tree.leaves(shapes))).normal
    return jax.tree.map(lambda s: np.float32(0.3 * draw(size=s.shape)), shapes)


def write(folder, unet):
    vocab, merges = train_word_tokenizer(WORDS)
    size = Tokenizer(vocab, merges, 8).vocab_size
    text = CLIPTextConfig(size, 8, 8, 1, 2, 8, "gelu", 1e-5)
    vae = VAEConfig(3, 3, 4, (4, 4), 1, 2, 0.5, PIXELS)
    save_stable_diffusion(
        folder,
        unet=(unet, random_params("unet", unet)),
        vae=(vae, random_params("vae", vae)),
        text_encoder=(text, random_params("text_encoder", text)),
        tokenizer=(vocab, merges),
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("multiview"), TOLD)


@pytest.fixture(scope="module")
def source(folder):
    return multiview.load(str(folder), "a red mug", "a blue mug", group=4)


@partial(jax.jit, static_argnames="count")
def views_of(key, count=4):
    orbit = OrbitRange(elevation=(15.0, 15.0))
    return View(
        random_orbits(key, count, orbit, width=PIXELS, height=PIXELS, group=count)
    )


@pytest.fixture(scope="module")
def z_t():
    return np.random.default_rng(1).normal(size=(4, SIDE, SIDE, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def noise(source):
    return jax.jit(
        lambda p, z_t, t, view: source.bind(p).noise(
            z_t, t, view, ("cond", "uncond", "negative")
        )
    )


def test_it_is_the_network_told_prompt_and_cameras(folder, source, noise, z_t):
    networks = hub.load_multiview(folder)
    view = views_of(jax.random.key(2))
    got = noise(source.params, z_t, T, view)
    ids = networks.tokenizer(["a red mug", "", "a blue mug"])

    @jax.jit
    def alone(unet, encoder, ids, cameras):
        text = networks.text_encoder.module.apply({"params": encoder}, ids[None])
        small = jax.vmap(lambda c: plucker_rays(resize_camera(c, SIDE, SIDE)))(cameras)
        numbers = jax.vmap(camera_numbers)(cameras)
        return networks.unet.module.apply(
            {"params": unet}, z_t[None], T[None], text, numbers[None], small[None]
        )[0]

    frozen = networks.unet.params, networks.text_encoder.params
    for branch, row in zip(got, np.asarray(ids), strict=True):
        expected = alone(*frozen, row, view.camera)
        np.testing.assert_allclose(branch, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(got.cond, got.uncond)


def test_views_of_a_group_see_each_other_and_their_cameras(source, noise, z_t):
    view = views_of(jax.random.key(2))
    plain = noise(source.params, z_t, T, view).cond
    bump = np.float32([0, 1, 0, 0]).reshape(4, 1, 1, 1)
    moved = noise(source.params, z_t + bump, T, view).cond
    assert np.abs(np.subtract(moved, plain)[0]).max() > 1e-4
    turned = noise(source.params, z_t, T, views_of(jax.random.key(7))).cond
    assert np.abs(np.subtract(turned, plain)).max() > 1e-4
    order = np.array([2, 0, 3, 1])
    cameras = jax.device_get(view.camera)
    shuffled = View(jax.tree.map(lambda leaf: leaf[order], cameras))
    again = noise(source.params, z_t[order], T, shuffled).cond
    np.testing.assert_allclose(again, np.asarray(plain)[order], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_null_camera_is_no_camera(source, noise, z_t):
    blank = jax.tree.map(jnp.zeros_like, views_of(jax.random.key(2)).camera)
    null = noise(source.params, z_t, T, View(blank)).cond
    for without in (None, View(None)):
        got = noise(source.params, z_t, T, without).cond
        np.testing.assert_allclose(got, null, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_alone_a_view_is_a_group_of_one(folder, z_t):
    one = multiview.load(str(folder), "a red mug", group=1)
    assert one.bind(one.params).group == 1
    view = jax.device_get(views_of(jax.random.key(2)))
    view = View(jax.tree.map(lambda leaf: leaf[0], view.camera))

    def noise(params, z):
        return one.bind(params).noise(z, T, view, ("cond",))

    got = jax.jit(noise)(one.params, z_t[0])
    assert got.cond.shape == z_t[0].shape
    assert got.uncond is None
    together = jax.jit(jax.vmap(noise, (None, 0)))(one.params, z_t).cond
    np.testing.assert_allclose(together[0], got.cond, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_encode_and_decode_take_a_view_or_map_over_the_group(source):
    encode = jax.jit(lambda p, x: source.bind(p).encode(x))
    decode = jax.jit(lambda p, z: source.bind(p).decode(z))
    draw = np.random.default_rng(0).uniform
    x = draw(-1, 1, (4, PIXELS, PIXELS, 3)).astype(np.float32)
    z = np.asarray(encode(source.params, x))
    assert z.shape == (4, SIDE, SIDE, 4)
    alone = encode(source.params, x[2])
    np.testing.assert_allclose(alone, z[2], rtol=1e-3, atol=1e-4)
    back = np.asarray(decode(source.params, z))
    assert back.shape == x.shape
    alone = decode(source.params, z[2])
    np.testing.assert_allclose(alone, back[2], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_adapter_begins_as_the_network_and_learns_alone(source, noise, z_t):
    view = views_of(jax.random.key(2))
    begin = jax.jit(lambda p, key: source.bind(p).adapter.init(key))
    psi = begin(source.params, jax.random.key(3))

    def adapted(psi, params):
        return source.bind(params).adapter.noise(psi, z_t, T, view)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def slope(psi, params):
        said = adapted(psi, params)
        return jnp.sum(said**2), said

    slopes, begun = jax.device_get(slope(psi, source.params))
    expected = noise(source.params, z_t, T, view).cond
    np.testing.assert_allclose(begun, expected, rtol=1e-4, atol=1e-4)
    assert any(s.any() for s in jax.tree.leaves(slopes.factors))
    last = jax.tree.leaves(slopes.camera["linear_2"])
    assert all(s.any() for s in last)


def test_folders_given_to_the_other_prior_are_one_line(folder, tmp_path):
    plain = write(tmp_path / "plain", UNET)
    with pytest.raises(LoaderError, match="load it as the prior stable_diffusion"):
        multiview.load(str(plain), "a red mug")
    with pytest.raises(LoaderError, match="load it as the prior multiview"):
        stable_diffusion.load(str(folder), "a red mug")


def test_a_missing_camera_layer_and_sizes_are_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match=r"prior.group = 0"):
        multiview.load(str(folder), "a red mug", group=0)
    with pytest.raises(ValueError, match=r"prior.image_size = 9 must be a multiple"):
        multiview.load(str(folder), "a red mug", image_size=9)
    copy = write(tmp_path / "copy", TOLD)
    path = copy / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "code_tokens": 2}))
    with pytest.raises(LoaderError, match="expected"):
        multiview.load(str(copy), "a red mug")
