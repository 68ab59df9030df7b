"""The network prior on a small random folder: branches, view words, conventions."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.cameras import orbit_camera
from sdsjax.diffusion import prompts, velocity_to_noise
from sdsjax.models.loading import hub
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig
from sdsjax.priors import stable_diffusion
from sdsjax.types import View

UNET = UNetConfig(
    in_channels=4, out_channels=4, channels=(16, 32), heads=(2, 2),
    down_attention=(False, True), up_attention=(True, False), layers=1, groups=8,
    epsilon=1e-5, context=16, linear_projection=True, sample_size=8,
)  # fmt: skip
VAE = VAEConfig(
    in_channels=3, out_channels=3, latent_channels=4, channels=(8, 16), layers=1,
    groups=4, scaling_factor=0.5, sample_size=16,
)  # fmt: skip
TEXT = CLIPTextConfig(
    vocab_size=600, hidden=16, mlp=32, layers=2, heads=2, positions=16,
    activation="gelu", epsilon=1e-5,
)  # fmt: skip


def random_params(name, config, seed):
    shapes = hub.param_shapes(name, config)
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.2 * jax.random.normal(k, s.shape) for k, s in zip(keys, leaves)]
    return jax.tree.unflatten(structure, drawn)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    words = train_word_tokenizer(["red", "cat", "front", "view", "left", "side"])
    text = TEXT._replace(vocab_size=len(words[0]))
    return save_stable_diffusion(
        tmp_path_factory.mktemp("sd"),
        unet=(UNET, random_params("unet", UNET, 0)),
        vae=(VAE, random_params("vae", VAE, 1)),
        text_encoder=(text, random_params("text_encoder", text, 2)),
        tokenizer=words,
        prediction_type=request.param,
    )


def test_branches_are_separate_calls_of_the_network(folder):
    source = stable_diffusion.load(str(folder), "red cat", "side")
    prior, networks = source.bind(source.params), hub.load_stable_diffusion(str(folder))
    z_t, t = jax.random.normal(jax.random.key(0), (8, 8, 4)), jnp.int32(400)
    e = prior.noise(z_t, t, None, branches=("cond", "uncond", "negative"))
    encoder = networks.text_encoder
    for got, text in [(e.cond, "red cat"), (e.uncond, ""), (e.negative, "side")]:
        ids = jnp.asarray(networks.tokenizer([text]))
        states = encoder.module.apply({"params": encoder.params}, ids)
        out = networks.unet.module.apply(
            {"params": networks.unet.params}, z_t[None], t[None], states
        )[0]
        if networks.prediction_type == "v_prediction":
            out = velocity_to_noise(networks.schedule, z_t, out, t)
        np.testing.assert_allclose(got, out, rtol=1e-4, atol=1e-4)
    assert prior.noise(z_t, t, None, branches=("cond",)).uncond is None


def test_view_words_follow_the_camera(folder):
    source = stable_diffusion.load(str(folder), "red cat")
    prior = source.bind(source.params)
    z_t, t = jax.random.normal(jax.random.key(0), (8, 8, 4)), jnp.int32(400)
    for azimuth, row in [(0.0, prompts.FRONT), (90.0, prompts.LEFT)]:
        view = View(orbit_camera(azimuth, 0.0))
        got = prior.noise(z_t, t, view).cond
        text = prompts.view_prompts("red cat")[row]
        alone = stable_diffusion.load(str(folder), text, view_prompts=False)
        want = alone.bind(alone.params).noise(z_t, t, view).cond
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_encode_is_the_scaled_mean_and_differentiable(folder):
    source = stable_diffusion.load(str(folder), "red cat")
    prior, vae = source.bind(source.params), hub.load_component(str(folder), "vae")
    x = jax.random.uniform(jax.random.key(0), source.image_shape, minval=-1.0)
    mean, _ = vae.module.apply({"params": vae.params}, x[None], method="encode")
    np.testing.assert_allclose(prior.encode(x), 0.5 * mean[0], rtol=1e-5, atol=1e-5)
    assert prior.decode(prior.encode(x)).shape == x.shape
    slope = jax.grad(lambda x: jnp.sum(prior.encode(x) ** 2))(x)
    assert jnp.isfinite(slope).all()
    assert jnp.abs(slope).max() > 0


def test_parameters_carry_no_gradient(folder):
    source = stable_diffusion.load(str(folder), "red cat")
    x = jnp.ones(source.image_shape)

    def through(params):
        prior = source.bind(params)
        return jnp.sum(prior.noise(prior.encode(x), jnp.int32(9), None).cond ** 2)

    for leaf in jax.tree.leaves(jax.grad(through)(source.params)):
        assert not leaf.any()


def test_large_images_are_encoded_with_rematerialisation(folder, monkeypatch):
    source = stable_diffusion.load(str(folder), "red cat")
    monkeypatch.setattr(stable_diffusion, "REMAT_FROM", 16)
    lean = stable_diffusion.load(str(folder), "red cat", image_size=16)
    x = jax.random.uniform(jax.random.key(0), source.image_shape, minval=-1.0)
    programs = [
        str(jax.make_jaxpr(lambda p, x, s=s: s.bind(p).encode(x))(s.params, x))
        for s in (source, lean)
    ]
    assert ["checkpoint" in p or "remat" in p for p in programs] == [False, True]


def test_an_image_size_between_latents_is_refused(folder):
    with pytest.raises(ValueError, match="multiple of 2"):
        stable_diffusion.load(str(folder), "red cat", image_size=15)


def test_the_text_encoder_is_freed(folder):
    words = hub.load_component(str(folder), "text_encoder").config.vocab_size

    def embeddings():  # nothing else has a row for every word
        gc.collect()
        return sum(words in array.shape for array in jax.live_arrays())

    before = embeddings()
    source = stable_diffusion.load(str(folder), "red cat")
    assert embeddings() == before
    assert source.params.states.uncond.shape == (TEXT.positions, TEXT.hidden)
