"""How DPT's and CLIP's folders are read: published layouts, and what is refused."""

import fixed_vision as vision
import huggingface_hub
import jax
import numpy as np
import pytest

from sdsjax.models.loading import companions, configs_vision, hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.weights import check_table

# laid out as older files are: keys that no code reads, later defaults left out
DPT_LARGE = {
    "architectures": ["DPTForDepthEstimation"],
    "attention_probs_dropout_prob": 0.0,
    "auxiliary_loss_weight": 0.4,
    "backbone_out_indices": [5, 11, 17, 23],
    "expand_channels": [256, 512, 1024, 1024],
    "fusion_hidden_size": 256,
    "head_in_index": -1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 1024,
    "image_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-12,
    "model_type": "dpt",
    "neck_hidden_sizes": [256, 512, 1024, 1024],
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 16,
    "qkv_bias": True,
    "readout_type": "project",
    "reassemble_factors": [4, 2, 1, 0.5],
    "semantic_classifier_dropout": 0.1,
    "semantic_loss_ignore_index": 255,
    "torch_dtype": "float32",
    "transformers_version": "4.18.0.dev0",
    "use_auxiliary_head": True,
    "use_batch_norm_in_fusion_residual": False,
}
DPT_HYBRID = DPT_LARGE | {
    "backbone_config": {
        "model_type": "bit",
        "depths": [3, 4, 9],
        "embedding_dynamic_padding": True,
        "global_padding": "same",
        "layer_type": "bottleneck",
        "out_features": ["stage1", "stage2", "stage3"],
    },
    "backbone_featmap_shape": [1, 1024, 24, 24],
    "backbone_out_indices": [2, 5, 8, 11],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "is_hybrid": True,
    "neck_hidden_sizes": [256, 512, 768, 768],
    "neck_ignore_stages": [0, 1],
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "reassemble_factors": [1, 1, 1, 0.5],
}
CLIP_L = {
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {
        "_name_or_path": "", "add_cross_attention": False, "bos_token_id": 0,
        "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
        "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77, "model_type": "clip_text_model",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
        "projection_dim": 768, "torchscript": False, "vocab_size": 49408,
    },
    "text_config_dict": {"hidden_size": 768, "projection_dim": 768},
    "torch_dtype": "float32",
    "transformers_version": None,
    "vision_config": {
        "_name_or_path": "", "hidden_act": "quick_gelu", "hidden_size": 1024,
        "image_size": 224, "intermediate_size": 4096, "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model", "num_attention_heads": 16,
        "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
    },
    "vision_config_dict": None,
}  # fmt: skip


@pytest.mark.slow  # small files of every key are read by test_vision, strictly
@pytest.mark.parametrize(
    ("name", "config", "keys", "parameters"),
    [
        ("depth", DPT_LARGE, 462, 343_030_465),
        ("normals", DPT_LARGE, 462, 343_030_531),
        ("depth", DPT_HYBRID, 414, 122_377_985),
        ("clip_scorer", CLIP_L, 590, 427_616_513),
    ],
)
def test_full_size(name, config, keys, parameters):
    companion = companions.COMPANIONS[name]
    read = companion.read_config(config)
    table, shapes = companion.table(read), hub.shapes_of(companion, read)
    flat = check_table(table, shapes, name)
    assert len(table) == keys
    assert sum(int(np.prod(s.shape)) for s in flat.values()) == parameters


def test_the_end_token_of_old_files_means_the_largest_id():
    assert configs_vision.clip_config(CLIP_L).end_id is None
    assert configs_vision.clip_config(vision.CLIP).end_id == 59


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("depth", {"readout_type": "add"}, "readout_type = 'add'; expected 'project'"),
        ("depth", {"is_hybrid": True}, "backbone_config = None; expected an object"),
        ("depth", {"is_hybrid": 1}, "true or false"),
        ("depth", {"model_type": "vit"}, "model_type = 'vit'; expected 'dpt'"),
        ("depth", {"backbone_config": {}}, "backbone_config = {}"),
        ("depth", {"add_projection": True}, "add_projection = True"),
        ("depth", {"backbone_out_indices": [0, 1, 2, 4]}, "each below 4"),
        ("depth", {"backbone_out_indices": [1, 0, 2, 3]}, "rising"),
        ("depth", {"reassemble_factors": [4, 2, 1]}, "for each tap"),
        ("depth", {"reassemble_factors": [4, 2, 1, 0.3]}, "for each tap"),
        ("depth", {"neck_hidden_sizes": [6, 8, 10]}, "4, one a tap"),
        ("depth", {"patch_size": 7}, "a divisor of 32 pixels"),
        ("depth", {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new'"),
        ("depth", {"made_up": 1}, "no such key"),
        ("clip_scorer", {"made_up": 1}, "no such key"),
        ("clip_scorer", {"projection_dim": 0}, "a positive integer"),
        ("clip_scorer", {"text_config": 3}, "expected an object"),
        ("clip_scorer", {"text_config_dict": {"hidden_size": 8}}, "as in text_config"),
        ("clip_scorer", {"vision_config": {"made_up": 1}}, "vision_config: made_up"),
    ],
)
def test_configs_that_are_refused(tmp_path, name, change, message):
    config = {**vision.CONFIGS[name], **change}
    vision.write_folder(tmp_path / "a", name, config, stored={})
    with pytest.raises(LoaderError) as caught:
        companions.load_companion(tmp_path / "a", name)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "a" / "config.json"))
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_hybrid": False}, "None without is_hybrid"),
        ({"neck_ignore_stages": []}, "neck_ignore_stages = []; expected [0, 1]"),
        ({"patch_size": 8}, "patch_size = 8; expected 16"),
        ({"neck_hidden_sizes": [16, 8, 10, 12]}, "first the stem's [16, 40]"),
        ({"backbone_out_indices": [0, 3], "reassemble_factors": [1, 1],
          "neck_hidden_sizes": [16, 40]}, "more than 2"),
        ({"stem": {"layer_type": "preactivation"}}, "expected 'bottleneck'"),
        ({"stem": {"global_padding": None}}, "global_padding = None"),
        ({"stem": {"depths": [1, 2]}}, "depths = [1, 2]; expected three"),
        ({"stem": {"out_features": ["stage1"]}}, "out_features = ['stage1']"),
        ({"stem": {"num_groups": 16}}, "num_groups = 16; expected a divisor of the 8"),
        ({"stem": {"made_up": 1}}, "backbone_config: made_up = 1"),
    ],
)  # fmt: skip
def test_stems_that_are_refused(change, message):
    change = dict(change)
    stem = {**vision.HYBRID["backbone_config"], **change.pop("stem", {})}
    with pytest.raises(LoaderError) as caught:
        configs_vision.dpt_config({**vision.HYBRID, "backbone_config": stem, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["layer_type", "embedding_dynamic_padding"])
def test_a_stem_that_leaves_out_what_is_not_the_default_is_refused(key):
    stem = {k: v for k, v in vision.HYBRID["backbone_config"].items() if k != key}
    with pytest.raises(LoaderError, match=f"{key} = None"):
        configs_vision.dpt_config(vision.HYBRID | {"backbone_config": stem})


@pytest.mark.parametrize("name", ["depth", "clip_scorer"])
def test_files_that_are_refused(tmp_path, name):
    good = vision.tensors(name, vision.CONFIGS[name])
    key = next(k for k in good if good[k].ndim == 2)
    wide = {**good, key: np.zeros((3, 4), np.float32)}
    for stored, message in (
        ({k: v for k, v in good.items() if k != key}, f"missing key {key}"),
        ({**good, "extra.weight": good[key]}, "unexpected key extra.weight"),
        (wide, f"{key} has shape [3, 4]; expected"),
        ({**good, key: good[key].astype(np.float64)}, f"{key} has type F64"),
        ({**good, key: good[key] * np.inf}, f"{key} holds values that are not finite"),
    ):
        folder = vision.write_folder(tmp_path, name, stored=stored)
        with pytest.raises(LoaderError) as caught:
            companions.load_companion(folder, name)
        assert message in str(caught.value)
    with pytest.raises(LoaderError, match="no network 'unet'"):
        companions.load_companion(tmp_path, "unet")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(LoaderError, match="only safetensors are read"):
        companions.load_companion(tmp_path, name)


def test_three_channels_are_no_disparity(tmp_path):
    folder = vision.write_folder(tmp_path, "normals")
    with pytest.raises(LoaderError, match=r"head.head.4.* has shape \[3"):
        companions.load_companion(folder, "depth")


def test_stored_positions_are_ignored_and_types_follow(tmp_path):
    stored = vision.tensors("clip_scorer", vision.CLIP)
    for tower in ("text", "vision"):
        key = f"{tower}_model.embeddings.position_ids"
        stored[key] = np.arange(12)[None]
    vision.write_folder(tmp_path, "clip_scorer", stored=stored)
    network = companions.load_companion(tmp_path, "clip_scorer", dtype="bfloat16")
    kinds = {p.dtype.name for p in jax.tree.leaves(network.params)}
    assert kinds == {"bfloat16"}


def test_a_flat_repository_is_asked_for_its_own_files(monkeypatch):
    asked = {}

    def download(repo, **options):
        asked.update(options)
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(LoaderError) as caught:
        companions.load_companion("owner/name", "depth")
    assert asked["allow_patterns"][0] == "*.json"
    assert 'hf download owner/name --include "*.json"' in str(caught.value)
