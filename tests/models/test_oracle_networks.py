"""Numerical parity with torch's diffusers and transformers on random small networks.

Relative L2 in float32; the bounds are 5e-6 and twice torch's own error against its
float64. In bfloat16, 1.5 times torch's own error.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.models.layers import ResnetBlock, SpatialTransformer
from sdsjax.models.loading import hub

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

UNET = {
    "sample_size": 32,
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "layers_per_block": 1,
}
CLIP = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "bos_token_id": 998,
    "eos_token_id": 999,
}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        torch.manual_seed(0)
        yield


def perturbed(model, gain):
    """Norms off 1 and 0, matrices scaled up: defaults hide swaps and flat softmax."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
        else:
            parameter.mul_(gain)
    return model.eval()


def normals(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def nchw(array, dtype=None):
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).to(dtype)


def nhwc(tensor):
    return tensor.detach().double().numpy().transpose(0, 2, 3, 1)


def relative(found, expected):
    found = np.asarray(found, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def as_close_as_torch(found, single, double):
    """found against torch in float32 (single) and float64 (double)."""
    assert relative(found, single) <= 5e-6
    assert relative(found, double) <= 2 * relative(single, double)


@pytest.mark.parametrize("linear", [True, False])
def test_unet(tmp_path, linear):
    config = {**UNET, "use_linear_projection": linear}
    oracle = perturbed(diffusers.UNet2DConditionModel(**config), 1.5)
    assert len(oracle.state_dict()) == 304
    oracle.save_pretrained(tmp_path / "unet")
    network = hub.load_component(tmp_path, "unet")
    half = hub.load_component(tmp_path, "unet", dtype=jnp.bfloat16)
    t, text = np.array([3, 700]), normals(2, 7, 32)

    for size in ((32, 32), (9, 14)):
        z = normals(2, *size, 4)

        def torch_in(dtype, z=z):
            model = oracle.to(dtype)
            words = torch.from_numpy(text).to(dtype)
            return nhwc(model(nchw(z, dtype), torch.from_numpy(t), words).sample)

        double = torch_in(torch.float64)
        single = torch_in(torch.float32)
        found = jax.jit(network.module.apply)({"params": network.params}, z, t, text)
        as_close_as_torch(found, single, double)
    found = jax.jit(half.module.apply)({"params": half.params}, z, t, text)
    own = relative(torch_in(torch.bfloat16), double)  # last: it rounds the weights
    assert relative(found, double) <= 1.5 * own


def test_blocks_alone(tmp_path):
    oracle = perturbed(diffusers.UNet2DConditionModel(**UNET), 2.0)
    oracle.save_pretrained(tmp_path / "unet")
    mid = hub.load_component(tmp_path, "unet").params["mid_block"]
    x, time, text = normals(2, 6, 5, 64) * 0.3, normals(2, 128), normals(2, 7, 32)

    found = jax.jit(ResnetBlock(64, 32, 1e-5).apply)(
        {"params": mid["resnets_0"]}, x, time
    )
    block = oracle.mid_block.resnets[0]
    single = nhwc(block(nchw(x), torch.from_numpy(time)))
    double = nhwc(block.double()(nchw(x).double(), torch.from_numpy(time).double()))
    as_close_as_torch(found, single, double)

    found = jax.jit(SpatialTransformer(4, 32, True).apply)(
        {"params": mid["attentions_0"]}, x, text
    )
    block = oracle.mid_block.attentions[0]
    single = nhwc(block(nchw(x), torch.from_numpy(text)).sample)
    words = torch.from_numpy(text).double()
    double = nhwc(block.double()(nchw(x).double(), words).sample)
    as_close_as_torch(found, single, double)


@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_vae(tmp_path, remat):
    oracle = perturbed(diffusers.AutoencoderKL(**VAE), 1.5)
    assert len(oracle.state_dict()) == 124
    oracle.save_pretrained(tmp_path / "vae")
    network = hub.load_component(tmp_path, "vae", remat=remat)
    variables = {"params": network.params}
    x, z = np.tanh(normals(2, 32, 24, 3)), normals(2, 16, 12, 4)
    cotangent = normals(2, 16, 12, 4)

    def torch_in(dtype):
        model = oracle.to(dtype)
        with torch.enable_grad():
            pixels = nchw(x, dtype).requires_grad_()
            posterior = model.encode(pixels).latent_dist
            (posterior.mean * nchw(cotangent, dtype)).sum().backward()
        decoded = model.decode(nchw(z, dtype)).sample
        return map(nhwc, (posterior.mean, posterior.logvar, pixels.grad, decoded))

    @jax.jit
    def ours(x, z):
        encode = lambda x: network.module.apply(variables, x, method="encode")  # noqa: E731
        (mean, logvar), pull = jax.vjp(encode, x)
        decoded = network.module.apply(variables, z, method="decode")
        return mean, logvar, pull((cotangent, jnp.zeros_like(logvar)))[0], decoded

    single, double = list(torch_in(torch.float32)), list(torch_in(torch.float64))
    for found, s, d in zip(ours(x, z), single, double, strict=True):
        as_close_as_torch(found, s, d)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_encoder(tmp_path, activation):
    config = transformers.CLIPTextConfig(**CLIP, hidden_act=activation)
    oracle = perturbed(transformers.CLIPTextModel(config), 3.0)
    oracle.save_pretrained(tmp_path / "text_encoder")
    network = hub.load_component(tmp_path, "text_encoder")
    ids = np.random.default_rng(0).integers(0, 1000, (2, 20))
    single = oracle(torch.from_numpy(ids)).last_hidden_state.numpy()
    double = oracle.double()(torch.from_numpy(ids)).last_hidden_state.numpy()
    found = jax.jit(network.module.apply)({"params": network.params}, ids)
    as_close_as_torch(found, single, double)
