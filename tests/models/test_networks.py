"""The networks against torch's answers in float64 (goldens/models.npz), no torch."""

from pathlib import Path

import fixed_weights as fixed
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import write_folder

from sdsjax.models import layers
from sdsjax.models.loading import hub

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "models.npz"
TOLERANCE = 1e-6  # relative L2; torch's own float32 is at 5e-7 here


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS) as file:
        return dict(file)


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def relative(found, expected):
    found = np.asarray(found, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def load(tmp_path, name, config, **options):
    return hub.load_component(write_folder(tmp_path, name, config), name, **options)


def run_unet(network):
    a = fixed.inputs()
    variables = {"params": network.params}
    return jax.jit(network.module.apply)(variables, a["z"], a["t"], a["text"])


@pytest.mark.parametrize("name", list(fixed.UNETS))
def test_unet(tmp_path, golden, name):
    network = load(tmp_path, "unet", fixed.UNETS[name])
    assert relative(run_unet(network), golden[name]) < TOLERANCE


def tanh_gelu(monkeypatch):
    monkeypatch.setattr(layers, "gelu_exact", jax.nn.gelu)


def coarse_epsilon(monkeypatch):
    fields = layers.GroupNorm.__call__

    def call(self, x):
        object.__setattr__(self, "epsilon", max(self.epsilon, 1e-5))
        return fields(self, x)

    monkeypatch.setattr(layers.GroupNorm, "__call__", call)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [tanh_gelu, coarse_epsilon])
def test_faults_of_retired_flax_models_show(tmp_path, golden, monkeypatch, fault):
    network = load(tmp_path, "unet", fixed.UNETS["unet_sd2"])
    fault(monkeypatch)
    assert relative(run_unet(network), golden["unet_sd2"]) > 10 * TOLERANCE


@pytest.mark.slow
def test_unet_in_bfloat16(tmp_path, golden):
    network = load(tmp_path, "unet", fixed.UNETS["unet_sd2"], dtype=jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves(network.params)} == {jnp.dtype("bfloat16")}
    out = run_unet(network)
    assert out.dtype == jnp.float32  # the type of z_t
    assert relative(out, golden["unet_sd2"]) < 0.016  # 1.5 times torch's own


@pytest.mark.parametrize(
    "remat", [pytest.param("none", marks=pytest.mark.slow), "blocks"]
)
def test_vae_encoder_and_its_pullback(tmp_path, golden, remat):
    network, a = load(tmp_path, "vae", fixed.VAE, remat=remat), fixed.inputs()

    def encode(x):
        variables = {"params": network.params}
        return network.module.apply(variables, x, method="encode")

    @jax.jit
    def both_ways(x, tangent, cotangent):
        (mean, logvar), pull = jax.vjp(encode, x)
        (x_bar,) = pull((cotangent, jnp.zeros_like(logvar)))
        (forward, _) = jax.jvp(encode, (x,), (tangent,))[1]
        return mean, logvar, x_bar, forward

    tangent = fixed.uniform("tangent", a["x"].shape)
    mean, logvar, x_bar, forward = both_ways(a["x"], tangent, a["cotangent"])
    assert relative(mean, golden["vae_mean"]) < TOLERANCE
    assert relative(logvar, golden["vae_logvar"]) < TOLERANCE
    assert relative(x_bar, golden["vae_pullback"]) < 2 * TOLERANCE
    both = np.vdot(forward, a["cotangent"]), np.vdot(tangent, x_bar)
    np.testing.assert_allclose(*both, rtol=1e-4)


def test_vae_moments_are_float32_and_clipped(tmp_path):
    network = load(tmp_path, "vae", fixed.VAE, dtype=jnp.bfloat16)
    params = jax.tree.map(lambda p: p, network.params)
    params["quant_conv"]["bias"] = jnp.full(8, 100.0, jnp.bfloat16)
    encode = jax.jit(network.module.apply, static_argnames="method")
    mean, logvar = encode({"params": params}, fixed.inputs()["x"], method="encode")
    assert mean.dtype == logvar.dtype == jnp.float32
    assert float(logvar.max()) == 20.0
    assert float(mean.max()) > 20.0


def test_vae_decoder(tmp_path, golden):
    network = load(tmp_path, "vae", fixed.VAE)
    decode = jax.jit(network.module.apply, static_argnames="method")
    z = fixed.inputs()["latent"]
    out = decode({"params": network.params}, z, method="decode")
    assert relative(out, golden["vae_decode"]) < TOLERANCE


@pytest.mark.parametrize("name", list(fixed.CLIPS))
def test_text_encoder(tmp_path, golden, name):
    network = load(tmp_path, "text_encoder", fixed.CLIPS[name])
    ids = fixed.inputs()["ids"]
    encode, variables = jax.jit(network.module.apply), {"params": network.params}
    out = encode(variables, ids)
    assert relative(out, golden[name]) < TOLERANCE
    # causal: what comes later leaves earlier states alone
    changed = encode(variables, ids ^ (np.arange(7) > 4))
    np.testing.assert_array_equal(out[:, :5], changed[:, :5])
    with pytest.raises(ValueError, match="13 tokens: the encoder has 12 positions"):
        encode(variables, np.zeros((1, 13), int))
