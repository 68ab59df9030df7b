"""LoRA files merged at load: each spelling, the formula, and what is refused."""

import json

import jax
import numpy as np
import pytest
import sdxl_folders as folders
from safetensors.numpy import save_file

from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.lora_files.merge import with_loras
from sdsjax.models.loading.sdxl.folder import load_sdxl
from sdsjax.priors.read_networks import load_networks

RANK = 3
DOWN, UP = "down_blocks.1.attentions.0.transformer_blocks.1.attn2", "up"
QUERY = ("unet", "down_blocks_1", "attentions_0", "transformer_blocks_1", "attn2")
CONV = ("unet", "down_blocks_1", "resnets_0", "conv1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.write_sdxl_folder(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def networks(folder):
    return load_sdxl(folder)


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


def kernel(network, *path):
    node = network.params
    for name in path:
        node = node[name]
    return np.asarray(node["kernel"])


def pair(name, down, up, style):
    """The two keys of one layer in a spelling."""
    ends = {
        "peft": (".lora_A.weight", ".lora_B.weight"),
        "old": (".lora.down.weight", ".lora.up.weight"),
        "kohya": (".lora_down.weight", ".lora_up.weight"),
    }[style]
    return {name + ends[0]: down, name + ends[1]: up}


K, V = drawn(RANK, 24), drawn(16, RANK)
LDM = "input_blocks_3_1_transformer_blocks_1_attn2"
FLAT = DOWN.replace(".", "_")


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        (pair(f"unet.{DOWN}.to_k", K, V, "peft"), 1.0),
        (pair(f"unet.{DOWN}.to_k", K, V, "old"), 1.0),
        (
            {
                f"unet.{DOWN}.processor.to_k_lora.down.weight": K,
                f"unet.{DOWN}.processor.to_k_lora.up.weight": V,
            },
            1.0,
        ),
        (pair(f"lora_unet_{FLAT}_to_k", K, V, "kohya"), 1.0),
        (
            {
                **pair(f"lora_unet_{LDM}_to_k", K, V, "kohya"),
                f"lora_unet_{LDM}_to_k.alpha": np.array(1.5, "f4"),
            },
            0.5,
        ),
    ],
    ids=["peft", "diffusers", "processor", "kohya", "kohya-ldm-alpha"],
)
def test_every_spelling_changes_the_same_layer(tmp_path, networks, keys, scale):
    path = tmp_path / "lora.safetensors"
    save_file(keys, path)
    merged = with_loras(networks, [(str(path), 0.8)])
    before = kernel(networks.unet, *QUERY, "to_k")
    after = kernel(merged.unet, *QUERY, "to_k")
    expected = before + 0.8 * scale * (V.astype("f8") @ K.astype("f8")).T
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
    same = jax.tree.map(np.array_equal, networks.unet.params, merged.unet.params)
    assert sum(not equal for equal in jax.tree.leaves(same)) == 1


def test_text_encoders_and_convolutions(tmp_path, networks):
    path = tmp_path / "lora.safetensors"
    one = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    two = "text_encoder_2.text_model.encoder.layers.2.mlp.fc1"
    conv = "lora_unet_down_blocks_1_resnets_0_conv1"
    down, up = drawn(RANK, 8, 3, 3), drawn(16, RANK, 1, 1)
    save_file(
        {
            **pair(one, drawn(RANK, 8), drawn(8, RANK), "kohya"),
            **pair(two, drawn(RANK, 16), drawn(24, RANK), "peft"),
            **pair(conv, down, up, "kohya"),
        },
        path,
    )
    merged = with_loras(networks, [(str(path), 1.0), (str(path), -0.5)])
    added = kernel(merged.unet, *CONV) - kernel(networks.unet, *CONV)
    expected = 0.5 * np.einsum("orxy,rihw->hwio", up, down)
    np.testing.assert_allclose(added, expected, rtol=1e-4, atol=1e-5)
    for name, path_, i, o in (
        ("text_encoder", ("layers_0", "self_attn", "q_proj"), 8, 8),
        ("text_encoder_2", ("text_model", "layers_2", "mlp_fc1"), 16, 24),
    ):
        before, after = (kernel(getattr(n, name), *path_) for n in (networks, merged))
        expected = 0.5 * (drawn(o, RANK) @ drawn(RANK, i)).T
        np.testing.assert_allclose(after - before, expected, rtol=1e-4, atol=1e-5)


def test_the_config_says_which(tmp_path, folder, networks):
    path = tmp_path / "lora.safetensors"
    save_file(pair(f"unet.{DOWN}.to_k", K, V, "peft"), path)
    found = load_networks(str(folder), loras=((str(path), 0.5),))
    added = kernel(found.unet, *QUERY, "to_k") - kernel(networks.unet, *QUERY, "to_k")
    np.testing.assert_allclose(added, 0.5 * (V @ K).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (pair("unet.made.up", K, V, "peft"), "unet.made.up.lora_A.weight matches no"),
        ({"something": K}, "something matches no layer"),
        ({f"unet.{DOWN}.to_k.lora_A.weight": K}, "has no factor 'up'"),
        (
            pair(f"unet.{DOWN}.to_k", drawn(RANK, 768), V, "peft"),
            r"do not fit a layer of \[16, 24\]; it seems to be for .* 1.x",
        ),
        (pair(f"unet.{DOWN}.to_k", K, drawn(16, 5), "peft"), "do not fit a layer"),
        (
            pair("transformer.transformer_blocks.0.attn.to_q", K, V, "peft"),
            "a LoRA for Stable Diffusion 3 or Flux",
        ),
        ({f"lora_unet_{FLAT}_to_k.hada_w1_a": K}, "it is a LoHa"),
        ({f"lora_unet_{FLAT}_to_k.dora_scale": K}, "it is a DoRA"),
        (pair(f"unet.{DOWN}.to_k", K * np.nan, V, "peft"), "not finite"),
        ({}, "holds no tensors"),
        (pair(f"unet.{DOWN}.to_k", K[:0], V[:, :0], "peft"), "do not fit a layer"),
        (pair(f"unet.{DOWN}.to_k", np.array(1, "f4"), V, "peft"), "do not fit a layer"),
        (pair(f"unet.{DOWN}.to_k", K.astype("i4"), V, "peft"), "type I32; expected"),
        (
            {
                **pair(f"lora_unet_{FLAT}_to_k", K, V, "kohya"),
                f"lora_unet_{FLAT}_to_k.alpha": np.ones(2, "f4"),
            },
            r"alpha has shape \[2\]; expected one number",
        ),
        (
            {
                **pair(f"lora_unet_{FLAT}_to_k", K, V, "kohya"),
                f"lora_unet_{FLAT}_to_k.alpha": np.array(np.inf, "f4"),
            },
            "not finite",
        ),
        ({f"unet.{DOWN}.to_k.lora_B.bias": K[0]}, "a LoRA with biases"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, networks, keys, said):
    path = tmp_path / "lora.safetensors"
    save_file(keys, path)
    with pytest.raises(LoaderError, match=said) as caught:
        with_loras(networks, [(str(path), 1.0)])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("gone.safetensors", 1.0), "no such file"),
        (("x.pt", 1.0), "a pickle"),
        ("file.safetensors", "expected pairs of a file and the weight"),
        (("file.safetensors", "1"), "expected pairs"),
        (("file.safetensors", float("nan")), "expected pairs"),
    ],
)
def test_entries_that_are_none(networks, entry, said):
    with pytest.raises(LoaderError, match=said):
        with_loras(networks, [entry])


@pytest.mark.parametrize(
    ("record", "scale"),
    [
        ({"unet.r": 3, "unet.lora_alpha": 6}, 6 / 3),
        ({"unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / 3**0.5),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"attn2.to_k": 9}}, 9 / 3),
        ({"unet.alpha_pattern": {r".*\.to_(k|v)": 9, "to_k": 1}}, 9 / 3),
        ({"unet.alpha_pattern": {"o_k": 9}}, 1.0),  # whole parts of a name
        ({"text_encoder.lora_alpha": 6, "unet.alpha_pattern": None}, 1.0),
    ],
)
def test_what_is_recorded_of_alpha(tmp_path, networks, record, scale):
    """By diffusers in the file, and by peft in a file beside it."""
    ours = tmp_path / "pytorch_lora_weights.safetensors"
    metadata = {"lora_adapter_metadata": json.dumps(record)}
    save_file(pair(f"unet.{DOWN}.to_k", K, V, "peft"), ours, metadata)
    beside = tmp_path / "adapter_model.safetensors"
    save_file(pair(f"base_model.model.{DOWN}.to_k", K, V, "peft"), beside)
    of_unet = {k[5:]: v for k, v in record.items() if k.startswith("unet.")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(of_unet))
    before = kernel(networks.unet, *QUERY, "to_k")
    for path in (ours, beside):
        merged = with_loras(networks, [(str(path), 0.5)])
        added = kernel(merged.unet, *QUERY, "to_k") - before
        expected = 0.5 * scale * (V.astype("f8") @ K.astype("f8")).T
        np.testing.assert_allclose(added, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "not readable as JSON"),
        ('{"unet.use_dora": true}', "a DoRA"),
        ('{"unet.lora_alpha": "big"}', "cannot be read: 'big'"),
        ('{"unet.lora_alpha": 2, "unet.alpha_pattern": {"(": 1}}', "cannot be read"),
        ('{"unet.alpha_pattern": [1]}', "cannot be read"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_line(tmp_path, networks, record, said):
    path = tmp_path / "lora.safetensors"
    keys = pair(f"unet.{DOWN}.to_k", K, V, "peft")
    save_file(keys, path, {"lora_adapter_metadata": record})
    with pytest.raises(LoaderError, match=said) as caught:
        with_loras(networks, [(str(path), 1.0)])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_weight_that_overflows_the_type_is_named(tmp_path, folder):
    half, path = load_sdxl(folder, dtype="float16"), tmp_path / "lora.safetensors"
    save_file(pair(f"unet.{DOWN}.to_k", K, V, "peft"), path)
    with pytest.raises(LoaderError, match="not finite in float16: lower the weight"):
        with_loras(half, [(str(path), 1e6)])


def test_at_strength_zero_nothing_changes(tmp_path, networks):
    path = tmp_path / "mit Leerzeichen und \u00fc.safetensors"
    save_file(pair(f"unet.{DOWN}.to_k", K, V, "peft"), path)
    merged = with_loras(networks, [(str(path), 0.0)])
    jax.tree.map(
        np.testing.assert_array_equal, networks.unet.params, merged.unet.params
    )
