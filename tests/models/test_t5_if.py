"""DeepFloyd IF's UNet and T5 against torch's answers in float64, and their loading."""

import json
from pathlib import Path

import fixed_deepfloyd as fixed
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from if_folders import fixed_tensors, write_component

from sdsjax.models.loading import configs_deepfloyd as configs
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.text_encoders.clip import CLIPTextConfig
from sdsjax.models.text_encoders.t5 import T5Config, distance_buckets
from sdsjax.models.text_encoders.t5_tokenizer import T5Tokenizer, from_sentencepiece
from sdsjax.models.unets.deepfloyd import IFUNetConfig

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "deepfloyd.npz"
TOLERANCE = 7e-7  # relative L2; twice torch's own in float32, 4.1e-7 and 3.6e-7
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")


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


def run_unet(network, z=None):
    a = fixed.inputs()
    z = a["z"] if z is None else z
    return jax.jit(network.module.apply)(
        {"params": network.params}, z, a["t"], a["text"]
    )


def run_t5(network, ids, mask):
    return jax.jit(network.module.apply)({"params": network.params}, ids, mask)


@pytest.mark.slow
def test_unet(tmp_path, golden):
    network = hub.load_component(write_component(tmp_path, "unet"), "unet")
    assert isinstance(network.config, IFUNetConfig)
    out = run_unet(network)
    assert out.shape == (2, 6, 8, 6)
    assert relative(out, golden["unet"]) < TOLERANCE
    with pytest.raises(ValueError, match="5x8 pixels: both sides must be multiples"):
        run_unet(network, jnp.zeros((2, 5, 8, 3)))


@pytest.mark.slow
def test_unet_in_bfloat16(tmp_path, golden):
    write_component(tmp_path, "unet")
    half = hub.load_component(tmp_path, "unet", dtype=jnp.bfloat16)
    out = run_unet(half)
    assert out.dtype == jnp.float32  # the type of z_t
    assert relative(out, golden["unet"]) < 0.016  # 1.5 times torch's own


def test_t5(tmp_path, golden):
    write_component(tmp_path, "text_encoder")
    network, a = hub.load_component(tmp_path, "text_encoder"), fixed.inputs()
    assert isinstance(network.config, T5Config)
    out = run_t5(network, a["ids"], a["mask"])
    assert relative(out, golden["t5"]) < TOLERANCE
    # nothing attends to padding
    changed = run_t5(network, a["ids"] + 7 * (1 - a["mask"]), a["mask"])
    np.testing.assert_array_equal(out[1, :4], changed[1, :4])
    unmasked = run_t5(network, a["ids"], None)
    np.testing.assert_allclose(unmasked[0], out[0], rtol=1e-5, atol=1e-5)
    assert relative(unmasked[1], np.float64(out[1])) > 0.01


def test_float16_of_t5_does_not_overflow(tmp_path):
    tensors = fixed_tensors("text_encoder")
    for key, value in tensors.items():
        if "wi_1" in key or "wo" in key:
            tensors[key] = value * 500
    write_component(tmp_path, "text_encoder", tensors=tensors)
    a = fixed.inputs()
    exact, half = (
        hub.load_component(tmp_path, "text_encoder", dtype=dtype)
        for dtype in (jnp.float32, jnp.float16)
    )
    expected = np.float64(run_t5(exact, a["ids"], a["mask"]))
    found = run_t5(half, a["ids"], a["mask"])
    assert found.dtype == jnp.float16
    assert relative(found, expected) < 0.02


def test_distances_share_buckets_logarithmically():
    row = distance_buckets(300, 32, 128)[150]
    assert row[150] == 0
    assert [row[150 - d] for d in (1, 7, 8, 127, 150)] == [1, 7, 8, 15, 15]
    np.testing.assert_array_equal(row[151:], 16 + row[149:0:-1])
    assert np.all(np.diff(row[150::-1]) >= 0)


def test_the_published_config_files_are_read():
    unet = configs.unet_config({**fixed.IF_XL, **fixed.PUBLISHED_UNET})
    text = configs.text_config({**fixed.T5_XXL, **fixed.PUBLISHED_T5})
    assert unet == configs.unet_config(fixed.IF_XL)
    assert (unet.head_width, unet.time_width, unet.out_channels) == (64, 2816, 6)
    assert unet.down_attention == (False, True, True, True)
    assert (text.heads, text.head_width, text.mlp, text.layers) == (64, 64, 10240, 24)


def test_text_encoders_are_told_apart():
    bare = {k: v for k, v in fixed.T5.items() if k != "model_type"}
    assert isinstance(configs.text_config(bare), T5Config)
    bare.pop("architectures")
    assert isinstance(configs.text_config({"model_type": "t5", **bare}), T5Config)
    clip = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    assert isinstance(configs.text_config(clip), CLIPTextConfig)
    with pytest.raises(LoaderError, match="model_type = 'umt5'"):
        configs.text_config({**bare, "model_type": "umt5"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_embed_type", "timestep"),  # the later stages of the cascade
        ("resnet_time_scale_shift", "default"),
        ("resnet_skip_time_act", True),
        ("cross_attention_norm", "layer_norm"),
        ("addition_embed_type", "text_image"),
        ("encoder_hid_dim_type", "text_image_proj"),
        ("encoder_hid_dim", None),
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("only_cross_attention", True),
        ("act_fn", "mish"),
        ("attention_head_dim", [4, 8]),
        ("attention_head_dim", 3),
        ("down_block_types", ["DownBlock2D", "SimpleCrossAttnDownBlock2D"]),
        ("cross_attention_dim", 48),
        ("out_channels", 5),
        ("novel", 1),
    ],
)
def test_unet_settings_that_are_refused(key, value):
    with pytest.raises(LoaderError, match=f"^unet/config.json: {key} = ") as caught:
        configs.unet_config({**fixed.UNET, key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["resnet_time_scale_shift", "cross_attention_norm", "addition_embed_type"]
)
def test_unet_settings_that_must_be_there(key):
    config = {k: v for k, v in fixed.UNET.items() if k != key}
    with pytest.raises(LoaderError, match=key):
        configs.unet_config(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feed_forward_proj", "relu"),
        ("is_decoder", True),
        ("relative_attention_num_buckets", 6),
        ("relative_attention_max_distance", 2),
        ("d_kv", 0),
        ("novel", 1),
    ],
)
def test_t5_settings_that_are_refused(key, value):
    with pytest.raises(LoaderError, match=f"config.json: {key} = "):
        configs.text_config({**fixed.T5, key: value})


@pytest.mark.parametrize("names", [EMBEDDINGS[:1], EMBEDDINGS[1:], EMBEDDINGS])
def test_one_embedding_under_either_name_or_both(tmp_path, names):
    tensors = fixed_tensors("text_encoder")
    table = tensors.pop("shared.weight")
    tensors |= {name: table.copy() for name in names}
    write_component(tmp_path, "text_encoder", tensors=tensors)
    params = hub.load_component(tmp_path, "text_encoder").params
    np.testing.assert_array_equal(params["token_embedding"], table)


def test_wrong_t5_tensors(tmp_path):
    tensors = fixed_tensors("text_encoder")
    other = {EMBEDDINGS[1]: tensors[EMBEDDINGS[0]] + 1}
    decoder = {"decoder.final_layer_norm.weight": np.ones(12, np.float32)}
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    fewer = {k: v for k, v in tensors.items() if k != bias}
    for changed, message in (
        ({**tensors, **other}, "shared.weight and .* differ"),
        ({**tensors, **decoder}, "unexpected key decoder"),
        (fewer, f"missing key {bias}"),
    ):
        write_component(tmp_path, "text_encoder", tensors=changed)
        with pytest.raises(LoaderError, match=message):
            hub.load_component(tmp_path, "text_encoder")


def test_a_folder_of_if_is_no_stable_diffusion(tmp_path):
    write_component(tmp_path, "unet", tensors={})
    with pytest.raises(LoaderError, match="load it as the prior deepfloyd"):
        hub.load_stable_diffusion(tmp_path)


@pytest.fixture
def tokenizer_folder(tmp_path, golden):
    (tmp_path / "spiece.model").write_bytes(golden["spiece"].tobytes())
    return tmp_path


@pytest.mark.filterwarnings("ignore:the prompt beginning")
def test_tokens_are_sentencepieces(tokenizer_folder, golden):
    length = golden["ids"].shape[1]
    tokenizer = T5Tokenizer.from_folder(tokenizer_folder, length)
    ids, mask = tokenizer(fixed.PROMPTS)
    np.testing.assert_array_equal(ids, golden["ids"])
    np.testing.assert_array_equal(mask, ids != 0)
    assert mask[0].sum() == 1  # no text: the end token alone


def test_tokenizer_json_is_preferred(tokenizer_folder, golden):
    backend = from_sentencepiece(golden["spiece"].tobytes())
    backend.enable_padding(length=50)  # a file may say so; it does not matter
    backend.save(str(tokenizer_folder / "tokenizer.json"))
    (tokenizer_folder / "spiece.model").write_bytes(b"")
    found = T5Tokenizer.from_folder(tokenizer_folder)(fixed.PROMPTS[:5])
    np.testing.assert_array_equal(found.ids[:, :24], golden["ids"][:5])
    assert found.ids.shape == (5, 77)


def test_special_tokens_and_sentinels(tokenizer_folder):
    (tokenizer_folder / "tokenizer_config.json").write_text('{"extra_ids": 3}')
    tokenizer = T5Tokenizer.from_folder(tokenizer_folder, 4)
    (row,), _ = tokenizer(["<extra_id_0></s>"])
    assert list(row) == [tokenizer.vocab_size - 1, 1, 1, 0]


def test_long_prompts_lose_their_tail_with_a_warning(tokenizer_folder):
    tokenizer = T5Tokenizer.from_folder(tokenizer_folder, 6)
    with pytest.warns(UserWarning, match="dropped: .*house"):
        (row,), (mask,) = tokenizer(["a blue cat on the red house"])
    assert row[-1] == tokenizer.end_id
    assert mask.all()
    with pytest.raises(TypeError, match="a list of strings"):
        tokenizer("a blue cat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-3], "cut off"),
        (lambda raw: b"", "not a SentencePiece model"),
        (lambda raw: raw + bytes([0x12, 2, 0x18, 2]), "expected a unigram model"),
        (lambda raw: raw + bytes([0x1A, 2, 0x18, 0]), "white space"),
        (lambda raw: raw.replace(b"</s>", b"<s/>"), "'</s>' is not in the vocabulary"),
    ],
    ids=["cut", "empty", "bpe", "spaces", "no end"],
)
def test_damaged_tokenizers(tokenizer_folder, golden, change, message):
    path = tokenizer_folder / "spiece.model"
    path.write_bytes(change(golden["spiece"].tobytes()))
    with pytest.raises(LoaderError, match=message) as caught:
        T5Tokenizer.from_folder(tokenizer_folder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(LoaderError, match=r"neither tokenizer\.json nor spiece\.model"):
        T5Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(LoaderError, match=r"tokenizer\.json: not a T5 tokenizer"):
        T5Tokenizer.from_folder(tmp_path)
