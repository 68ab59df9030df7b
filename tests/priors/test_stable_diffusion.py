"""The network prior on a small random folder: branches, view words, conventions."""

import gc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera

from sdsjax.diffusion import prompts
from sdsjax.models.loading import hub
from sdsjax.models.loading.save import save_stable_diffusion
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.clip_tokenizer import train_word_tokenizer
from sdsjax.models.unets.stable_diffusion import UNetConfig
from sdsjax.models.vae import VAEConfig
from sdsjax.priors import read_networks, stable_diffusion
from sdsjax.types import View

# it attends in the middle alone: where else is tests/models/test_networks's
UNET = UNetConfig(
    in_channels=4, out_channels=4, channels=(16,), heads=(2,),
    down_attention=(False,), up_attention=(False,), layers=1, groups=8,
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
    draw = np.random.default_rng(seed).normal
    shapes = hub.param_shapes(name, config)
    return jax.tree.map(lambda s: np.float32(0.2 * draw(size=s.shape)), shapes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each kind of prediction, else alike."""
    words = train_word_tokenizer(["red", "cat", "front", "view", "left", "side"])
    text = TEXT._replace(vocab_size=len(words[0]))
    networks = {
        "unet": (UNET, random_params("unet", UNET, 0)),
        "vae": (VAE, random_params("vae", VAE, 1)),
        "text_encoder": (text, random_params("text_encoder", text, 2)),
    }
    return {
        kind: str(
            save_stable_diffusion(
                tmp_path_factory.mktemp(kind),
                **networks,
                tokenizer=words,
                prediction_type=kind,
            )
        )
        for kind in ("epsilon", "v_prediction")
    }


@pytest.fixture(scope="module")
def folder(folders):
    return folders["epsilon"]


@pytest.fixture(scope="module")
def source(folder):
    return stable_diffusion.load(folder, "red cat")


Z_T = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
T = jnp.int32(400)


@partial(jax.jit, static_argnums=(0, 1))
def answer(unet, text_encoder, weights, ids):
    """What the network itself says at (Z_T, T), one program for equal networks."""
    states = text_encoder.apply({"params": weights[1]}, ids)
    return unet.apply({"params": weights[0]}, Z_T[None], T[None], states)[0]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_branches_are_separate_calls_of_the_network(folders, kind):
    source = stable_diffusion.load(folders[kind], "red cat", "side")
    networks = hub.load_stable_diffusion(folders[kind])
    assert networks.prediction_type == kind

    @jax.jit
    def noise(params):
        return source.bind(params).noise(
            Z_T, T, None, branches=("cond", "uncond", "negative")
        )

    parts = networks.unet, networks.text_encoder
    modules, weights = ([getattr(p, k) for p in parts] for k in ("module", "params"))
    alpha, sigma = (float(np.asarray(of)[400]) for of in networks.schedule)
    e = noise(source.params)
    for got, text in [(e.cond, "red cat"), (e.uncond, ""), (e.negative, "side")]:
        ids = networks.tokenizer([text])
        want = np.asarray(answer(*modules, weights, ids))
        if kind == "v_prediction":  # v = alpha eps - sigma x, z_t = alpha x + sigma eps
            want = alpha * want + sigma * Z_T
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    only = jax.eval_shape(
        lambda p: source.bind(p).noise(Z_T, T, None, branches=("cond",)), source.params
    )
    assert only.cond.shape == Z_T.shape
    assert only.uncond is only.negative is None


@pytest.mark.slow
def test_view_words_follow_the_camera(folder, source):
    def cond(source):
        return jax.jit(lambda p, v: source.bind(p).noise(Z_T, T, v, ("cond",)).cond)

    rows = {0.0: prompts.FRONT, 90.0: prompts.LEFT}
    texts = [prompts.view_prompts("red cat")[row] for row in rows.values()]
    alone = [stable_diffusion.load(folder, t, view_prompts=False) for t in texts]
    followed, unled = cond(source), cond(alone[0])  # the texts are in the parameters
    for azimuth, other in zip(rows, alone, strict=True):
        view = View(orbit_camera(azimuth, 0.0))
        got, want = followed(source.params, view), unled(other.params, view)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def picture(source):
    draw = np.random.default_rng(0).uniform
    return draw(-1.0, 1.0, source.image_shape).astype(np.float32)


def test_encode_is_the_scaled_mean_and_differentiable(folder, source):
    vae = hub.load_component(folder, "vae")
    x = picture(source)

    @jax.jit
    def there_and_back(params, own, x):
        z, pull = jax.vjp(source.bind(params).encode, x)
        mean, _ = vae.module.apply({"params": own}, x[None], method="encode")
        return z, mean[0], source.bind(params).decode(z), pull(2 * z)[0]

    found = there_and_back(source.params, vae.params, x)
    z, mean, back, slope = jax.device_get(found)
    np.testing.assert_allclose(z, 0.5 * mean, rtol=1e-5, atol=1e-5)
    assert back.shape == x.shape
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


def test_parameters_carry_no_gradient(source):
    x = np.ones(source.image_shape, np.float32)

    def through(params):
        prior = source.bind(params)
        return jnp.sum(prior.noise(prior.encode(x), jnp.int32(9), None).cond ** 2)

    # nothing is left to pull back through: no convolution but the forward pass's
    forward, slope = (
        str(jax.make_jaxpr(function)(source.params))
        for function in (through, jax.grad(through))
    )
    kernel = "conv_general_dilated"
    assert slope.count(kernel) == forward.count(kernel) > 0


def test_large_images_are_encoded_with_rematerialisation(folder, source, monkeypatch):
    monkeypatch.setattr(read_networks, "REMAT_FROM", 16)
    lean = stable_diffusion.load(folder, "red cat", image_size=16)
    x = picture(source)
    programs = [
        str(jax.make_jaxpr(lambda p, x, s=s: s.bind(p).encode(x))(s.params, x))
        for s in (source, lean)
    ]
    assert ["checkpoint" in p or "remat" in p for p in programs] == [False, True]


def test_an_image_size_between_latents_is_refused(folder):
    with pytest.raises(ValueError, match="multiple of 2"):
        stable_diffusion.load(folder, "red cat", image_size=15)


def test_the_text_encoder_is_freed(folder):
    words = hub.load_component(folder, "text_encoder").config.vocab_size

    def embeddings():  # nothing else has a row for every word
        gc.collect()
        return sum(words in array.shape for array in jax.live_arrays())

    before = embeddings()
    source = stable_diffusion.load(folder, "red cat")
    assert embeddings() == before
    assert source.params.states.uncond.shape == (TEXT.positions, TEXT.hidden)


@pytest.mark.parametrize("remat", ["auto", "none", "dots"])
def test_what_gradients_keep_is_said_of_encoder_and_second_network(folder, remat):
    """By itself nothing is computed again at so few pixels; the prior's own UNet is
    not differentiated."""
    source = stable_diffusion.load(folder, "red cat", remat=remat)
    networks = source.bind.keywords["networks"]
    asked = "none" if remat == "auto" else remat
    assert networks.vae.remat == networks.adapter.unet.remat == asked
    assert networks.unet.remat == "none"
