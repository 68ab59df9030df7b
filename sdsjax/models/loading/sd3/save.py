"""Networks -> a folder of Stable Diffusion 3, the inverse of `folder`, without T5."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from sdsjax.models.loading import configs, hub
from sdsjax.models.loading.save import save_component, save_tensors, write_json
from sdsjax.models.loading.scheduler import FLOW
from sdsjax.models.loading.sd3.configs import TRANSFORMER_CLASS
from sdsjax.models.loading.sd3.folder import CLIPS, TOKENS_KEY
from sdsjax.models.loading.sdxl.configs import PROJECTED
from sdsjax.models.loading.sdxl.folder import SECOND_ENCODER
from sdsjax.models.text_encoders.clip import CLIPProjectionConfig
from sdsjax.models.text_encoders.clip_tokenizer import write_tokenizer

MODEL_INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "scheduler": ["diffusers", FLOW],
    **{name: ["transformers", PROJECTED] for name in CLIPS},
    "text_encoder_3": [None, None],
    **{
        name: ["transformers", "CLIPTokenizer"] for name in ("tokenizer", "tokenizer_2")
    },
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", TRANSFORMER_CLASS],
    "vae": ["diffusers", configs.VAE_CLASS],
}


def clip_projection_json(config: CLIPProjectionConfig) -> dict[str, Any]:
    """The config.json that `clip_projection_config` and transformers read back."""
    return {
        **configs.clip_text_json(config.text),
        "architectures": [PROJECTED],
        "eos_token_id": config.end,
        "projection_dim": config.projection,
    }


def save_stable_diffusion3(
    folder,
    *,
    transformer: tuple[Any, Any],
    vae: tuple[Any, Any],
    text_encoders: tuple[tuple[Any, Any], tuple[Any, Any]],
    tokenizer: tuple[dict, list],
    shift: float,
    t5_tokens: int = 0,
    dtype=jnp.float16,
) -> Path:
    """Writes a whole folder that the prior stable_diffusion3 reads.

    Networks are (config, params) each; tokenizer: (vocab, merges) of both CLIPs; shift:
    of the schedule that the transformer was trained by; t5_tokens: how many zeros it
    was told in the place of T5's states.
    """
    folder = Path(folder)
    save_component(folder, "transformer", *transformer, dtype)
    save_component(folder, "vae", *vae, dtype)
    for name, words, (config, params) in zip(
        CLIPS, ("tokenizer", "tokenizer_2"), text_encoders, strict=True
    ):
        file = folder / name / f"{SECOND_ENCODER.stem}.safetensors"
        shapes = hub.shapes_of(SECOND_ENCODER, config)
        table = SECOND_ENCODER.table(config, ())
        save_tensors(file, name, table, shapes, params, dtype)
        write_json(folder / name / "config.json", clip_projection_json(config))
        write_tokenizer(folder / words, *tokenizer, config.text.positions)
    scheduler = {"_class_name": FLOW, "num_train_timesteps": 1000, "shift": shift}
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {**MODEL_INDEX, TOKENS_KEY: t5_tokens}
    write_json(folder / "model_index.json", index)
    return folder
