"""A whole folder of Stable Diffusion 3 in the hub's layout, in small, fixed weights."""

import json

import fixed_deepfloyd
import fixed_weights as fixed
import numpy as np
from flax.traverse_util import flatten_dict
from if_folders import GOLDEN as T5_GOLDEN
from safetensors.numpy import save_file

from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER
from sdsjax.models.text_encoders.clip_tokenizer import (
    train_word_tokenizer,
    write_tokenizer,
)

# the published transformer/config.json of 3.5-medium and of 3-medium
SD35 = {
    "_class_name": "SD3Transformer2DModel",
    "_diffusers_version": "0.31.0.dev0",
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "dual_attention_layers": list(range(13)),
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "sample_size": 128,
}
SD30 = {
    **{k: v for k, v in SD35.items() if k not in ("qk_norm", "dual_attention_layers")},
    "pos_embed_max_size": 192,
}
SD35_VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
WORDS = ["a", "red", "mug", "view", "front", "cat"]
SIDE, LENGTH, CONTEXT = 8, 16, 28
SMALL = {
    "attention_head_dim": 8,
    "caption_projection_dim": 16,
    "in_channels": 4,
    "joint_attention_dim": CONTEXT,
    "num_attention_heads": 2,
    "num_layers": 3,
    "out_channels": 4,
    "pooled_projection_dim": 6 + 12,
    "pos_embed_max_size": 7,
    "sample_size": SIDE,
}
TRANSFORMER = {**SD35, **SMALL, "dual_attention_layers": [0, 1]}
PLAIN = {**SD30, **SMALL}
VAE = {
    **fixed.VAE,
    "scaling_factor": 0.7,
    "shift_factor": 0.3,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
CLIP = {
    "architectures": ["CLIPTextModelWithProjection"],
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 8,
    "intermediate_size": 24,
    "max_position_embeddings": LENGTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 6,
    "vocab_size": 60,
}
BIGG = {**CLIP, "hidden_act": "gelu", "hidden_size": 16, "projection_dim": 12}
T5 = {**fixed_deepfloyd.T5, "d_model": CONTEXT}
# as the published folder has it
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.31.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
COMPONENTS = {
    **hub.COMPONENTS,
    **dict.fromkeys(("text_encoder", "text_encoder_2"), SECOND_ENCODER),
    "text_encoder_3": hub.COMPONENTS["text_encoder"],
}
CONFIGS = {
    "transformer": TRANSFORMER,
    "vae": VAE,
    "text_encoder": CLIP,
    "text_encoder_2": BIGG,
    "text_encoder_3": T5,
}


def fixed_tensors(name, config):
    """torch key -> tensor in torch's layout, for a component's config.json."""
    component = COMPONENTS[name]
    read = component.read_config(config)
    shapes = flatten_dict(hub.shapes_of(component, read))
    return {
        key: fixed.tensor(key, mapping.torch_shape(kind, shapes[path].shape))
        for key, kind, path in component.table(read, ())
    }


def write_component(root, name, config=None):
    """Writes `root/name` with fixed weights; returns root."""
    config = CONFIGS[name] if config is None else config
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / f"{COMPONENTS[name].stem}.safetensors"
    save_file(fixed_tensors(name, config), file)
    return root


def write_scheduler(root, **changes):
    """Writes the scheduler's folder with some keys changed."""
    path = root / "scheduler" / "scheduler_config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**SCHEDULER, **changes}))


def write_sd3_folder(root, t5=True, words=WORDS, transformer=TRANSFORMER):
    """Writes a whole folder; returns root. t5: with the third text encoder."""
    vocab, merges = train_word_tokenizer(words)
    for name, config in {**CONFIGS, "transformer": transformer}.items():
        if name == "text_encoder_3" and not t5:
            continue
        sized = {"vocab_size": len(vocab)} if config in (CLIP, BIGG) else {}
        write_component(root, name, {**config, **sized})
    write_tokenizer(root / "tokenizer", vocab, merges, LENGTH)
    write_tokenizer(root / "tokenizer_2", vocab, merges, LENGTH, pad="!")
    if t5:
        (root / "tokenizer_3").mkdir()
        with np.load(T5_GOLDEN) as golden:
            model = golden["spiece"].tobytes()
        (root / "tokenizer_3" / "spiece.model").write_bytes(model)
    write_scheduler(root)
    index = {"_class_name": "StableDiffusion3Pipeline"}
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def inputs():
    """Inputs of a transformer and of a VAE that are the same everywhere."""
    return {
        "z": 1.5 * fixed.uniform("z", (2, 8, 12, 4)),
        "t": np.array([3.0, 41.5], np.float32),
        "text": 1.5 * fixed.uniform("text", (2, 5, CONTEXT)),
        "pooled": 1.5 * fixed.uniform("pooled", (2, 18)),
        "x": fixed.uniform("x", (1, 8, 12, 3)),
    }
