"""The loader refuses everything that does not fit exactly, in one clear line."""

import json

import fixed_weights as fixed
import jax
import ml_dtypes
import numpy as np
import pytest
from folders import CONFIGS, fixed_tensors, weights_path, write_folder
from safetensors.numpy import save_file

from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError

CONV, LINEAR = "conv_in.weight", "time_embedding.linear_1.weight"


@pytest.fixture(scope="module")
def tensors():
    return {name: fixed_tensors(name, config) for name, config in CONFIGS.items()}


def refused(root, name, *parts, **options):
    """The error of loading, which is one line and has all of `parts`."""
    with pytest.raises(LoaderError) as caught:
        hub.load_component(root, name, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def assert_same(params, other):
    jax.tree.map(np.testing.assert_array_equal, params, other)


def test_layouts(tmp_path, tensors):
    params = hub.load_component(write_folder(tmp_path, "unet"), "unet").params
    source = tensors["unet"]
    np.testing.assert_array_equal(
        params["conv_in"]["kernel"], source[CONV].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        params["time_embedding"]["linear_1"]["kernel"], source[LINEAR].T
    )
    norm = params["down_blocks_0"]["resnets_0"]["norm1"]
    np.testing.assert_array_equal(
        norm["scale"], source["down_blocks.0.resnets.0.norm1.weight"]
    )


def test_headers_are_checked_before_anything_is_read(tmp_path, tensors, monkeypatch):
    last = max(tensors["unet"])
    wrong = {**tensors["unet"], last: tensors["unet"][last][:1]}
    write_folder(tmp_path, "unet", tensors=wrong)
    monkeypatch.setattr(jax, "device_put", None)
    refused(tmp_path, "unet", f"{last} has shape [1")


def test_an_fp8_file_is_refused_by_name(tmp_path, tensors):
    write_folder(tmp_path, "unet")
    path = weights_path(tmp_path, "unet")
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    header.pop("__metadata__", None)
    begin = 0
    for entry in header.values():
        end = begin + int(np.prod(entry["shape"]))
        entry.update(dtype="F8_E4M3", data_offsets=[begin, end])
        begin = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(begin))
    refused(tmp_path, "unet", "type F8_E4M3", "expected F32, F16, BF16")


@pytest.mark.parametrize("source", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("target", ["float16", "bfloat16", "float32"])
def test_dtypes(tmp_path, tensors, source, target):
    source, target = ml_dtypes.finfo(source).dtype, ml_dtypes.finfo(target).dtype
    stored = {k: v.astype(source) for k, v in tensors["text_encoder"].items()}
    write_folder(tmp_path, "text_encoder", tensors=stored)
    network = hub.load_component(tmp_path, "text_encoder", dtype=target)
    key = "text_model.embeddings.token_embedding.weight"
    found = network.params["token_embedding"]
    assert found.dtype == target
    np.testing.assert_array_equal(found, stored[key].astype(target))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.pop(CONV), ("missing key conv_in.weight",)),
        (lambda t: t.update(odd=t[CONV]), ("unexpected key odd",)),
        (
            lambda t: t.update({CONV: t[CONV].transpose(2, 3, 1, 0).copy()}),
            (CONV, "shape [3, 3, 4, 8]", "expected [8, 4, 3, 3]"),
        ),
        (
            lambda t: t.update({LINEAR: t[LINEAR].T.copy()}),
            (LINEAR, "shape [8, 32]", "expected [32, 8]"),
        ),
        (
            lambda t: t.update({CONV: t[CONV].astype(np.float64)}),
            (CONV, "type F64", "expected F32, F16, BF16"),
        ),
        (
            lambda t: t.update({CONV: t[CONV].astype(np.int8)}),
            (CONV, "type I8", "expected F32, F16, BF16"),
        ),
        (
            lambda t: t.update({CONV: np.full_like(t[CONV], np.nan)}),
            (CONV, "not finite"),
        ),
    ],
    ids=["missing", "extra", "hwio", "transposed", "f64", "i8", "nan"],
)
def test_wrong_tensors(tmp_path, tensors, change, parts):
    changed = dict(tensors["unet"])
    change(changed)
    write_folder(tmp_path, "unet", tensors=changed)
    refused(tmp_path, "unet", "diffusion_pytorch_model.safetensors", *parts)


def old_vae_spelling(tensors):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    out = {}
    for key, value in tensors.items():
        for new, old in names.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        out[key] = value
    return out


def test_both_spellings_of_the_vae(tmp_path, tensors):
    new = tensors["vae"]
    old = old_vae_spelling(new)
    assert set(old) != set(new)
    write_folder(tmp_path / "new", "vae")
    write_folder(tmp_path / "old", "vae", tensors=old)
    assert_same(
        *(hub.load_component(tmp_path / n, "vae").params for n in ("new", "old"))
    )
    for mixed in (old | new, {**new, **{k: v for k, v in old.items() if "query" in k}}):
        write_folder(tmp_path / "mixed", "vae", tensors=mixed)
        refused(tmp_path / "mixed", "vae", "mixes two spellings", "query", "to_q")


def test_both_prefixes_of_the_text_encoder(tmp_path, tensors):
    long = tensors["text_encoder"]
    short = {k.removeprefix("text_model."): v for k, v in long.items()}
    ids = np.arange(12)[None]
    write_folder(tmp_path / "a", "text_encoder")
    short_ids = {**short, "embeddings.position_ids": ids}
    write_folder(tmp_path / "b", "text_encoder", tensors=short_ids)
    long_ids = {**long, "text_model.embeddings.position_ids": ids}
    write_folder(tmp_path / "c", "text_encoder", tensors=long_ids)
    first, *others = (
        hub.load_component(tmp_path / n, "text_encoder").params for n in "abc"
    )
    for other in others:
        assert_same(first, other)
    key = "final_layer_norm.bias"
    mixed = {**long, key: short[key]}
    del mixed["text_model." + key]
    write_folder(tmp_path / "d", "text_encoder", tensors=mixed)
    refused(tmp_path / "d", "text_encoder", "mixes keys", key)


def shard(root, tensors, infix=""):
    """Split over two files with an index; returns the index's path."""
    stem, folder = "diffusion_pytorch_model", root / "vae"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fixed.VAE))
    keys, weight_map = sorted(tensors), {}
    for i, part in enumerate((keys[::2], keys[1::2])):
        name = f"{stem}{infix}-0000{i + 1}-of-00002.safetensors"
        save_file({k: tensors[k] for k in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = folder / f"{stem}.safetensors.index{infix}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("infix", ["", ".fp16"])
def test_sharded_files(tmp_path, tensors, infix):
    shard(tmp_path / "shards", tensors["vae"], infix)
    write_folder(tmp_path / "whole", "vae")
    whole, shards = (
        hub.load_component(tmp_path / n, "vae").params for n in ("whole", "shards")
    )
    assert_same(whole, shards)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a.bin", 3])
def test_index_that_leaves_the_folder(tmp_path, tensors, name):
    index = shard(tmp_path, tensors["vae"])
    found = json.loads(index.read_text())
    found["weight_map"]["quant_conv.bias"] = name
    index.write_text(json.dumps(found))
    refused(tmp_path, "vae", index.name, "quant_conv.bias", "plain name")


def test_index_that_disagrees_with_its_shards(tmp_path, tensors):
    index = shard(tmp_path, tensors["vae"])
    found = json.loads(index.read_text())
    gone = found["weight_map"].pop("quant_conv.bias")
    index.write_text(json.dumps(found))
    refused(tmp_path, "vae", gone, "unexpected key quant_conv.bias")
    (tmp_path / "vae" / gone).unlink()
    refused(tmp_path, "vae", gone, "missing")


def test_variants(tmp_path, tensors):
    half = {k: v.astype(np.float16) for k, v in tensors["vae"].items()}
    root = write_folder(tmp_path, "vae", tensors=half)
    plain = weights_path(root, "vae")
    refused(root, "vae", "no diffusion_pytorch_model.fp16.safetensors", variant="fp16")
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    fallback = hub.load_component(root, "vae").params
    assert_same(fallback, hub.load_component(root, "vae", variant="fp16").params)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_files(tmp_path, keep):
    path = weights_path(write_folder(tmp_path, "vae"), "vae")
    path.write_bytes(path.read_bytes()[:keep])
    refused(tmp_path, "vae", str(path), "truncated")


def test_header_that_claims_too_much(tmp_path):
    path = weights_path(write_folder(tmp_path, "vae"), "vae")
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    refused(tmp_path, "vae", str(path), "not a readable safetensors file")


def test_pickles_are_refused_with_the_reason(tmp_path):
    path = weights_path(write_folder(tmp_path, "vae"), "vae")
    path.rename(path.with_suffix(".bin"))
    refused(
        tmp_path, "vae", "diffusion_pytorch_model.bin", "only safetensors", "pickle"
    )


def test_folders_without_what_they_should_hold(tmp_path):
    refused(write_folder(tmp_path, "vae"), "unet", str(tmp_path), "no subfolder unet")
    refused(tmp_path, "decoder", "no component 'decoder'", "unet, vae, text_encoder")
    (tmp_path / "vae" / "config.json").unlink()
    refused(tmp_path, "vae", "config.json", "no such file")
    (tmp_path / "vae" / "config.json").write_text("{")
    refused(tmp_path, "vae", "config.json", "not readable as JSON")
    (tmp_path / "vae" / "config.json").write_text("[]")
    refused(tmp_path, "vae", "config.json", "a JSON object was expected")
