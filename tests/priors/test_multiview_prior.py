"""The multi-view prior on a tiny folder: cameras, groups, branches, the adapter."""

import json

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
UNET = UNetConfig(
    *(4, 4, (8, 8), (1, 1), (False, True), (True, False), 1, 4, 1e-5, 8, True, SIDE)
)
TOLD = MultiViewConfig(UNET, rays=True, code_tokens=1, code_width=8)
WORDS = ["a", "red", "blue", "mug"]


def random_params(name, config):
    leaves, structure = jax.tree.flatten(hub.param_shapes(name, config))
    keys = jax.random.split(jax.random.key(len(leaves)), len(leaves))
    return structure.unflatten(
        [0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]
    )


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


def views_of(key, count=4):
    orbit = OrbitRange(elevation=(15.0, 15.0))
    return View(
        random_orbits(key, count, orbit, width=PIXELS, height=PIXELS, group=count)
    )


@pytest.fixture(scope="module")
def z_t():
    return jax.random.normal(jax.random.key(1), (4, SIDE, SIDE, 4))


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
    states = networks.text_encoder.module.apply(
        {"params": networks.text_encoder.params}, jnp.asarray(ids)
    )
    small = jax.vmap(lambda c: plucker_rays(resize_camera(c, SIDE, SIDE)))(view.camera)
    numbers = jax.vmap(camera_numbers)(view.camera)
    for branch, text in zip(got, states):
        expected = networks.unet.module.apply(
            {"params": networks.unet.params},
            z_t[None], T[None], text[None], numbers[None], small[None],
        )[0]  # fmt: skip
        np.testing.assert_allclose(branch, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(got.cond, got.uncond)


def test_views_of_a_group_see_each_other_and_their_cameras(source, noise, z_t):
    view = views_of(jax.random.key(2))
    plain = noise(source.params, z_t, T, view).cond
    moved = noise(source.params, z_t.at[1].add(1.0), T, view).cond
    assert np.abs(moved[0] - plain[0]).max() > 1e-4
    turned = noise(source.params, z_t, T, views_of(jax.random.key(7))).cond
    assert np.abs(turned - plain).max() > 1e-4
    order = jnp.array([2, 0, 3, 1])
    shuffled = View(jax.tree.map(lambda leaf: leaf[order], view.camera))
    again = noise(source.params, z_t[order], T, shuffled).cond
    np.testing.assert_allclose(again, plain[order], rtol=1e-3, atol=1e-4)


def test_the_null_camera_is_no_camera(source, noise, z_t):
    blank = jax.tree.map(jnp.zeros_like, views_of(jax.random.key(2)).camera)
    null = noise(source.params, z_t, T, View(blank)).cond
    for without in (None, View(None)):
        got = noise(source.params, z_t, T, without).cond
        np.testing.assert_allclose(got, null, rtol=1e-4, atol=1e-5)


def test_alone_a_view_is_a_group_of_one(folder, z_t):
    one = multiview.load(str(folder), "a red mug", group=1)
    prior = one.bind(one.params)
    assert prior.group == 1
    view = View(jax.tree.map(lambda leaf: leaf[0], views_of(jax.random.key(2)).camera))
    got = prior.noise(z_t[0], T, view, ("cond",))
    assert got.cond.shape == z_t[0].shape
    assert got.uncond is None
    together = jax.vmap(lambda z: prior.noise(z, T, view, ("cond",)).cond)(z_t)
    np.testing.assert_allclose(together[0], got.cond, rtol=1e-4, atol=1e-4)


def test_encode_and_decode_take_a_view_or_map_over_the_group(source):
    prior = source.bind(source.params)
    x = jax.random.uniform(jax.random.key(0), (4, PIXELS, PIXELS, 3), minval=-1)
    z = prior.encode(x)
    assert z.shape == (4, SIDE, SIDE, 4)
    np.testing.assert_allclose(prior.encode(x[2]), z[2], rtol=1e-3, atol=1e-4)
    back = prior.decode(z)
    assert back.shape == x.shape
    np.testing.assert_allclose(prior.decode(z[2]), back[2], rtol=1e-3, atol=1e-4)


def test_the_adapter_begins_as_the_network_and_learns_alone(source, noise, z_t):
    view = views_of(jax.random.key(2))
    prior = source.bind(source.params)
    psi = prior.adapter.init(jax.random.key(3))
    begun = jax.jit(prior.adapter.noise)(psi, z_t, T, view)
    expected = noise(source.params, z_t, T, view).cond
    np.testing.assert_allclose(begun, expected, rtol=1e-4, atol=1e-4)

    def loss(psi):
        return jnp.sum(prior.adapter.noise(psi, z_t, T, view) ** 2)

    slopes = jax.jit(jax.grad(loss))(psi)
    assert any(float(jnp.abs(s).max()) > 0 for s in jax.tree.leaves(slopes.factors))
    last = jax.tree.leaves(slopes.camera["linear_2"])
    assert all(float(jnp.abs(s).max()) > 0 for s in last)


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
