"""DPT and CLIP -> their flat Hugging Face folders: the inverse of `companions`.

As in save.py: config.json and one safetensors file in transformers' layout, float16
unless told otherwise, each file written beside its place and renamed into it.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from sdsjax.models.loading.companions import COMPANIONS
from sdsjax.models.loading.hub import shapes_of
from sdsjax.models.loading.save import save_tensors, write_json
from sdsjax.models.text_encoders.clip_tokenizer import write_tokenizer
from sdsjax.models.vision.clip_scorer import CLIPConfig
from sdsjax.models.vision.dpt import STAGES, DPTConfig


def dpt_json(config: DPTConfig) -> dict[str, Any]:
    """The config.json that `dpt_config` reads back; the outputs are the weights'."""
    return {
        "architectures": ["DPTForDepthEstimation"],
        "model_type": "dpt",
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": config.in_channels,
        "hidden_act": config.activation,
        "layer_norm_eps": config.epsilon,
        "qkv_bias": config.qkv_bias,
        "backbone_out_indices": list(config.taps),
        "reassemble_factors": list(config.factors),
        "neck_hidden_sizes": list(config.necks),
        "fusion_hidden_size": config.fusion,
        "readout_type": "project",
        **_stem_json(config),
    }


def _stem_json(config: DPTConfig) -> dict[str, Any]:
    stem = config.stem
    if stem is None:
        return {"is_hybrid": False}
    return {
        "is_hybrid": True,
        "neck_ignore_stages": list(range(STAGES)),
        "backbone_featmap_shape": [1, stem.widths[-1], config.grid, config.grid],
        "backbone_config": {
            "model_type": "bit",
            "num_channels": config.in_channels,
            "embedding_size": stem.embedding,
            "hidden_sizes": list(stem.widths),
            "depths": list(stem.depths),
            "num_groups": stem.groups,
            "layer_type": "bottleneck",
            "global_padding": "SAME",
            "embedding_dynamic_padding": True,
            "out_features": [f"stage{i + 1}" for i in range(len(stem.depths))],
        },
    }


def clip_json(config: CLIPConfig) -> dict[str, Any]:
    """The config.json that `clip_config` reads back."""
    text, vision = config.text, config.vision
    end = 2 if config.end_id is None else config.end_id
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden,
            "intermediate_size": text.mlp,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.positions,
            "hidden_act": text.activation,
            "layer_norm_eps": text.epsilon,
            "bos_token_id": text.vocab_size - 2,
            "eos_token_id": end,
            "pad_token_id": text.vocab_size - 1,
            "projection_dim": config.projection,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vision.hidden,
            "intermediate_size": vision.mlp,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch,
            "num_channels": vision.in_channels,
            "hidden_act": vision.activation,
            "layer_norm_eps": vision.epsilon,
            "projection_dim": config.projection,
        },
    }


WRITERS = {"depth": dpt_json, "normals": dpt_json, "clip_scorer": clip_json}


def save_companion(
    folder, name: str, config, params, tokenizer=None, *, dtype=jnp.float16
) -> Path:
    """Write the flat folder that `companions.load_companion(folder, name)` reads.

    name: "depth", "normals" or "clip_scorer"; params: the tree that the network's init
    gives; tokenizer: (vocab, merges) for CLIP, whose folder holds its tokenizer too.
    Raises ValueError if a parameter does not fit, or is not finite in `dtype`.
    """
    if (tokenizer is None) == (name == "clip_scorer"):
        raise ValueError(f"{name}: a tokenizer belongs to clip_scorer, and to it alone")
    folder = Path(folder)
    component = COMPANIONS[name]
    table, shapes = component.table(config), shapes_of(component, config)
    file = folder / f"{component.stem}.safetensors"
    save_tensors(file, name, table, shapes, params, dtype)
    write_json(folder / "config.json", WRITERS[name](config))
    if tokenizer is not None:
        vocab, merges = tokenizer
        write_tokenizer(folder, vocab, merges, config.text.positions)
    return folder
