"""Folders of DPT and CLIP -> networks, as strictly as `hub` reads Stable Diffusion.

Their files stand at the top of a folder or repository: config.json, model.safetensors
(or shards), and for CLIP its tokenizer. Published: Intel/dpt-large (disparity, MIT);
laion/CLIP-ViT-B-32-laion2B-s34B-b79K and openai/clip-vit-large-patch14 (scorers, MIT).
"""

from functools import partial

import jax.numpy as jnp
import numpy as np

from sdsjax.models.loading import configs_vision, mapping, mapping_vision
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.hub import Component, Network, load, resolve
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.vision.clip_scorer import CLIP
from sdsjax.models.vision.dpt import DPT


def _dpt(outputs: int) -> Component:
    return Component(
        "model",
        partial(configs_vision.dpt_config, outputs=outputs),
        mapping_vision.dpt_table,
        DPT,
        lambda cfg: (np.zeros((1, cfg.patch, cfg.patch, cfg.in_channels), "f4"),),
    )


def _clip_inputs(cfg):
    side = cfg.vision.image_size
    image = np.zeros((1, side, side, cfg.vision.in_channels), np.float32)
    return image, np.zeros((1, 2), np.int32)


COMPANIONS = {
    "depth": _dpt(1),
    "normals": _dpt(3),
    "clip_scorer": Component(
        "model",
        configs_vision.clip_config,
        mapping_vision.clip_table,
        CLIP,
        _clip_inputs,
        tuple(f"{tower}_model.{mapping.CLIP_IGNORED}" for tower in ("text", "vision")),
    ),
}


def load_companion(
    folder_or_repo,
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype=jnp.float32,
    sharding=None,
) -> Network:
    """Load `depth`, `normals` or `clip_scorer`; arguments as in `hub.load_component`.

    Raises LoaderError, one line, for anything that does not fit exactly.
    """
    if name not in COMPANIONS:
        raise LoaderError(f"no network {name!r}; known: {', '.join(COMPANIONS)}")
    root = resolve(folder_or_repo, revision=revision, variant=variant, folders=("",))
    return load(COMPANIONS[name], root, variant, dtype, sharding)


def load_clip_scorer(
    folder_or_repo, *, revision: str | None = None, dtype=jnp.float32
) -> tuple[Network, Tokenizer]:
    """CLIP's towers and their tokenizer, for `clip_scorer.clip_distance`.

    Raises LoaderError, also where the tokenizer has more tokens than the text tower.
    """
    root = resolve(folder_or_repo, revision=revision, folders=("",))
    network = load_companion(root, "clip_scorer", dtype=dtype)
    text = network.config.text
    tokenizer = Tokenizer.from_folder(root, text.positions)
    if tokenizer.vocab_size > text.vocab_size:
        raise LoaderError(
            f"{root}: the tokenizer has {tokenizer.vocab_size} tokens, the text tower "
            f"{text.vocab_size}"
        )
    return network, tokenizer
