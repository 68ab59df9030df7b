"""DeepFloyd IF's UNet and T5 beside torch's: numbers on small networks, keys and shapes
at full size (on torch's meta device: nothing is allocated), tokens, text pipeline.

Bounds as in test_oracle_networks: twice torch's own float32 error against its float64.
"""

import json
from functools import partial

import fixed_deepfloyd as fixed
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_oracle_networks import nchw, nhwc, normals, perturbed, relative

from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.weights import check_table
from sdsjax.models.text_encoders.t5 import distance_buckets
from sdsjax.models.text_encoders.t5_tokenizer import T5Tokenizer
from sdsjax.models.unets.deepfloyd import (
    AttentionPooling,
    ShiftedResnet,
    TextImageAttention,
)

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle

UNET = {
    **fixed.UNET,
    "sample_size": 32,
    "block_out_channels": (32, 64),
    "norm_num_groups": 32,
    "encoder_hid_dim": 32,
    "attention_head_dim": 8,
}
T5 = {
    **fixed.T5,
    "vocab_size": 1000,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 37,
    "num_heads": 4,
    "relative_attention_max_distance": 128,
}


@pytest.fixture(autouse=True)
def _exact_products():
    with jax.default_matmul_precision("highest"), torch.no_grad():
        torch.manual_seed(0)
        yield


def as_close_as_torch(found, single, double):
    assert relative(found, double) <= 2 * relative(single, double)


def both(module, *arrays):
    """torch's answers in float32 and float64; the module is float64 afterwards."""
    single = module(*(torch.from_numpy(a) for a in arrays))
    inputs = (torch.from_numpy(a) for a in arrays)
    module = module.double()
    double = module(*(a.double() if a.is_floating_point() else a for a in inputs))
    return single, double


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_unet(tmp_path, activation):
    config = {**UNET, "act_fn": activation}
    oracle = perturbed(diffusers.UNet2DConditionModel(**config), 1.5)
    assert len(oracle.state_dict()) == 199
    oracle.save_pretrained(tmp_path / "unet")
    network = hub.load_component(tmp_path, "unet")
    z, t, text = normals(2, 32, 24, 3), np.array([3, 700]), normals(2, 7, 32)

    def torch_in(dtype):
        model, words = oracle.to(dtype), torch.from_numpy(text).to(dtype)
        return nhwc(model(nchw(z, dtype), torch.from_numpy(t), words).sample)

    double, single = torch_in(torch.float64), torch_in(torch.float32)
    found = jax.jit(network.module.apply)({"params": network.params}, z, t, text)
    as_close_as_torch(found, single, double)
    if activation == "gelu":
        half = hub.load_component(tmp_path, "unet", dtype=jnp.bfloat16)
        found = jax.jit(half.module.apply)({"params": half.params}, z, t, text)
        own = relative(torch_in(torch.bfloat16), double)  # last: it rounds the weights
        assert relative(found, double) <= 1.5 * own


def test_blocks_alone(tmp_path):
    oracle = perturbed(diffusers.UNet2DConditionModel(**UNET), 2.0)
    oracle.save_pretrained(tmp_path / "unet")
    network = hub.load_component(tmp_path, "unet")
    config, params = network.config, network.params
    mid, down = params["mid_block"], params["down_blocks_0"]
    x, time, text = normals(2, 6, 4, 64) * 0.3, normals(2, 128), normals(2, 7, 32)
    torch_x = x.transpose(0, 3, 1, 2).copy()

    def check(module, weights, ours, answers):
        found = jax.jit(module.apply)({"params": weights}, *ours)
        single, double = (a.detach().double().numpy() for a in answers)
        if single.ndim == 4:
            single, double = (a.transpose(0, 2, 3, 1) for a in (single, double))
        as_close_as_torch(found, single, double)

    block = oracle.mid_block.resnets[0]
    resnet = partial(ShiftedResnet, config)
    check(resnet(64), mid["resnets_0"], (x, time), both(block, torch_x, time))
    wide = normals(2, 6, 4, 32)
    block = oracle.down_blocks[0].downsamplers[0]
    answers = both(block, wide.transpose(0, 3, 1, 2).copy(), time)
    check(resnet(32, "down"), down["downsamplers_0"], (wide, time), answers)
    block = oracle.up_blocks[0].upsamplers[0]
    up = params["up_blocks_0"]["upsamplers_0"]
    check(resnet(64, "up"), up, (x, time), both(block, torch_x, time))
    block = oracle.mid_block.attentions[0]
    attend = TextImageAttention(config)
    check(attend, mid["attentions_0"], (x, text), both(block, torch_x, text))
    block, pool = oracle.add_embedding.pool, params["add_embedding"]["pool"]
    check(AttentionPooling(2), pool, (text,), both(block, text))


def test_t5(tmp_path):
    oracle = perturbed(transformers.T5EncoderModel(transformers.T5Config(**T5)), 2.0)
    oracle.save_pretrained(tmp_path / "text_encoder")
    network = hub.load_component(tmp_path, "text_encoder")
    half = hub.load_component(tmp_path, "text_encoder", dtype=jnp.bfloat16)
    ids = np.random.default_rng(0).integers(0, 1000, (2, 160))
    mask = np.ones(ids.shape, int)
    mask[0, 50:] = 0

    def torch_in(dtype):
        inputs = torch.from_numpy(ids), torch.from_numpy(mask)
        return oracle.to(dtype)(*inputs).last_hidden_state.double().numpy()

    double, single = torch_in(torch.float64), torch_in(torch.float32)
    found = jax.jit(network.module.apply)({"params": network.params}, ids, mask)
    as_close_as_torch(found, single, double)
    found = jax.jit(half.module.apply)({"params": half.params}, ids, mask)
    own = relative(torch_in(torch.bfloat16), double)
    assert relative(found, double) <= 1.5 * own


@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (8, 128), (16, 64)])
def test_distance_buckets(buckets, far):
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(512)
    offset = places[None, :] - places[:, None]
    want = T5Attention._relative_position_bucket(offset, True, buckets, far)
    np.testing.assert_array_equal(distance_buckets(512, buckets, far), want)


def torch_unet(config):
    return diffusers.UNet2DConditionModel.from_config(config)


def torch_t5(config):
    return transformers.T5EncoderModel(transformers.T5Config(**config))


@pytest.mark.parametrize(
    ("name", "config", "build", "keys", "parameters"),
    [
        ("unet", fixed.IF_XL, torch_unet, 775, 4_304_695_110),
        ("text_encoder", fixed.T5_XXL, torch_t5, 219, 4_762_310_656),
    ],
    ids=["if-xl", "t5-xxl"],
)
def test_full_size_tables(name, config, build, keys, parameters):
    with torch.device("meta"):
        state = build(config).state_dict()
    state = {k: tuple(v.shape) for k, v in state.items() if "embed_tokens" not in k}
    component = hub.COMPONENTS[name]
    read = component.read_config(config)
    table = component.table(read, list(state))
    shapes = check_table(table, hub.param_shapes(name, read), name)
    found = {e.key: mapping.torch_shape(e.kind, shapes[e.path].shape) for e in table}
    assert found == state
    assert len(found) == keys
    assert sum(int(np.prod(shape)) for shape in found.values()) == parameters


def test_tokens_as_transformers_has_them(tmp_path):
    """tokenizer.json and tokenizer_config.json as transformers writes them."""
    words = [
        (w, -1.0 - i / 9) for i, w in enumerate(("\u2581", "\u2581a", "\u2581red"))
    ]
    letters = [(chr(c), -5.0 - c / 99) for c in range(97, 123)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    oracle = transformers.T5Tokenizer([*special, *words, *letters])
    oracle.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    prompts = ["a red cat", "", "  RED  a\u00a0b ", "x" * 90, "<extra_id_3> a</s>"]
    limits = {"padding": "max_length", "truncation": True, "max_length": 77}
    with pytest.warns(UserWarning, match="dropped"):
        ids, mask = T5Tokenizer.from_folder(tmp_path)(prompts)
    rows = oracle(prompts, **limits)
    np.testing.assert_array_equal(ids, rows["input_ids"])
    np.testing.assert_array_equal(mask, rows["attention_mask"])


def test_the_schedule_is_diffusers(tmp_path):
    oracle = diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range"
    )
    oracle.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())
    schedule, kind = hub.read_schedule(tmp_path)
    assert kind == "epsilon"
    alphas = oracle.alphas_cumprod.double().numpy() ** 0.5
    # diffusers accumulates a thousand factors in float32
    np.testing.assert_allclose(schedule.alphas[:-1], alphas[:-1], rtol=2e-4)
