"""Networks -> a Hugging Face folder: the inverse of `hub`, by the same tables.

What is written, torch's diffusers and transformers read too: config.json and
safetensors in their layout, float16 unless told otherwise. Each file is written beside
its place and renamed into it, so that a folder never holds half a file.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from sdsjax.files.atomic import replacing, write_text
from sdsjax.models.loading import configs, configs_multiview
from sdsjax.models.loading.hub import COMPONENTS, param_shapes
from sdsjax.models.loading.mapping import to_torch
from sdsjax.models.loading.sd3.configs import transformer_json
from sdsjax.models.loading.weights import check_table
from sdsjax.models.text_encoders.clip_tokenizer import write_tokenizer
from sdsjax.models.unets.multiview import MultiViewConfig


def unet_json(config):
    """The config.json of a UNet of either kind that can be saved."""
    if isinstance(config, MultiViewConfig):
        return configs_multiview.multiview_json(config)
    return configs.unet_json(config)


WRITERS = {
    "unet": unet_json,
    "vae": configs.vae_json,
    "text_encoder": configs.clip_text_json,
    "transformer": transformer_json,
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", configs.CLIP_CLASS],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", configs.UNET_CLASS],
    "vae": ["diffusers", configs.VAE_CLASS],
}
MULTIVIEW_INDEX = {
    **MODEL_INDEX,
    "_class_name": "MVDreamPipeline",
    "unet": ["mv_unet", configs_multiview.MULTIVIEW_CLASS],
}


def save_component(folder, name: str, config, params, dtype=jnp.float16) -> Path:
    """Write `folder/name/` (config.json and one safetensors file); returns it.

    params: the tree that the network's init gives. Raises ValueError if a parameter
    has another shape, is missing, or is not finite in `dtype`.
    """
    component, shapes = COMPONENTS[name], param_shapes(name, config)
    out = Path(folder) / name
    file = out / f"{component.stem}.safetensors"
    save_tensors(file, name, component.table(config), shapes, params, dtype)
    write_json(out / "config.json", WRITERS[name](config))
    return out


def save_tensors(file: Path, name: str, table, shapes, params, dtype) -> None:
    """Write the parameters of a network as the safetensors file of its table.

    shapes: the tree of its init; raises ValueError as `save_component` does.
    """
    check_table(table, shapes, name)
    flat, shapes = flatten_dict(params), flatten_dict(shapes)
    if set(flat) != set(shapes):
        odd = min(set(flat) ^ set(shapes))
        raise ValueError(f"{name}: {'/'.join(odd)} does not fit the config's network")
    tensors = {}
    for key, kind, path in table:
        array = np.asarray(flat[path])
        if array.shape != shapes[path].shape:
            raise ValueError(
                f"{name}: {'/'.join(path)} has shape {array.shape}; "
                f"expected {shapes[path].shape}"
            )
        tensor = np.asarray(to_torch(kind, array), dtype=dtype, order="C")
        if not np.isfinite(tensor).all():
            kind = jnp.dtype(dtype).name
            raise ValueError(f"{name}: {'/'.join(path)} is not finite in {kind}")
        tensors[key] = tensor
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        # transformers refuses files that do not say so
        save_file(tensors, partial, metadata={"format": "pt"})


def save_stable_diffusion(
    folder,
    *,
    unet: tuple[Any, Any],
    vae: tuple[Any, Any],
    text_encoder: tuple[Any, Any],
    tokenizer: tuple[dict, list],
    num_train_timesteps: int = 1000,
    beta_schedule: str = "scaled_linear",
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    prediction_type: str = "epsilon",
    dtype=jnp.float16,
) -> Path:
    """Write a whole folder that `load_stable_diffusion` and diffusers read.

    With a multi-view UNet, `load_multiview` reads it. unet, vae, text_encoder: (config,
    params) each; tokenizer: (vocab, merges), as `train_word_tokenizer` gives them; the
    rest describes the training of the UNet.
    """
    folder = Path(folder)
    networks = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    for name, (config, params) in networks.items():
        save_component(folder, name, config, params, dtype)
    write_tokenizer(folder / "tokenizer", *tokenizer, text_encoder[0].positions)
    scheduler = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": num_train_timesteps,
        "beta_schedule": beta_schedule,
        "beta_start": beta_start,
        "beta_end": beta_end,
        "prediction_type": prediction_type,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    multiview = isinstance(unet[0], MultiViewConfig)
    index = MULTIVIEW_INDEX if multiview else MODEL_INDEX
    write_json(folder / "model_index.json", index)
    return folder


def write_json(path: Path, value: dict) -> None:
    """Pretty, sorted, renamed into place."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
