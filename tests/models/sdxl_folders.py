"""A whole folder of SDXL in the hub's layout, in small, holding the fixed weights."""

import json

import fixed_weights as fixed
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER
from sdsjax.models.text_encoders.clip_tokenizer import (
    train_word_tokenizer,
    write_tokenizer,
)

# the published unet/config.json
SDXL = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.19.0.dev0",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "center_input_sample": False,
    "class_embed_type": None,
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
BIGG = {
    "architectures": ["CLIPTextModelWithProjection"],
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "vocab_size": 49408,
}
WORDS = ["a", "red", "mug", "view", "front", "cat"]
SIDE, LENGTH = 8, 16
UNET = {
    **SDXL,
    "addition_time_embed_dim": 4,
    "attention_head_dim": [1, 2],
    "block_out_channels": [8, 16],
    "cross_attention_dim": 8 + 16,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "projection_class_embeddings_input_dim": 12 + 6 * 4,
    "sample_size": SIDE,
    "transformer_layers_per_block": [1, 2],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}
VAE = {**fixed.VAE, "scaling_factor": 0.13025, "force_upcast": True}
CLIP = {
    **fixed.CLIP,
    "max_position_embeddings": LENGTH,
    "hidden_size": 8,
    "hidden_act": "quick_gelu",
}
SECOND = {
    **BIGG,
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": LENGTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "projection_dim": 12,
    "vocab_size": 60,
}
# as the published folder has it
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
COMPONENTS = {**hub.COMPONENTS, "text_encoder_2": SECOND_ENCODER}
CONFIGS = {"unet": UNET, "vae": VAE, "text_encoder": CLIP, "text_encoder_2": SECOND}


def fixed_tensors(name, config):
    """torch key -> tensor in torch's layout, for a component's config.json."""
    component = COMPONENTS[name]
    read = component.read_config(config)
    shapes = flatten_dict(hub.shapes_of(component, read))
    return {
        key: fixed.tensor(
            key.removeprefix("text_model."),
            mapping.torch_shape(kind, shapes[path].shape),
        )
        for key, kind, path in component.table(read, ())
    }


def write_component(root, name, infix="", **changes):
    """Writes `root/name`: the small config with `changes`, fixed weights."""
    config = {**CONFIGS[name], **changes}
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / f"{COMPONENTS[name].stem}{infix}.safetensors"
    save_file(fixed_tensors(name, config), file)
    return root


def write_json(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def write_sdxl_folder(root, infix="", words=WORDS, index=None, unet=None):
    """Writes a whole folder; returns root. index: more of its model_index.json; unet:
    changes of its UNet's config.json."""
    vocab, merges = train_word_tokenizer(words)
    for name in CONFIGS:
        changes = {"vocab_size": len(vocab)} if "encoder" in name else {}
        changes = (unet or {}) if name == "unet" else changes
        write_component(root, name, infix, **changes)
    write_tokenizer(root / "tokenizer", vocab, merges, LENGTH)
    write_tokenizer(root / "tokenizer_2", vocab, merges, LENGTH, pad="!")
    write_json(root / "scheduler" / "scheduler_config.json", SCHEDULER)
    pipeline = {"_class_name": "StableDiffusionXLPipeline"}
    pipeline["force_zeros_for_empty_prompt"] = True
    write_json(root / "model_index.json", {**pipeline, **(index or {})})
    return root


def inputs():
    """What the networks are called on; sizes differ in the batch, and so do ends."""
    a = fixed.inputs()
    ids = [[58, 3, 17, 40, 59, 0, 0], [58, 0, 7, 59, 0, 0, 0]]
    return {
        "z": a["z"],
        "t": a["t"],
        "text": fixed.uniform("text", (2, 5, 24)) * 1.7,
        "pooled": fixed.uniform("pooled", (2, 12)) * 1.7,
        "sizes": np.float32([[768, 1024, 0, 0, 768, 1024], [512, 640, 8, 24, 96, 70]]),
        "ids": np.array(ids),
    }
