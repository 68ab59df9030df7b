"""A whole folder of Stable Diffusion XL, read as strictly as `hub` reads the others.

Beside Stable Diffusion's components it has `text_encoder_2` and `tokenizer_2`. Text is
encoded by both encoders; states of the layer before the last are put side by side, the
second one's projection is the pooled text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading import hub, mapping
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.hub import Component, Network
from sdsjax.models.loading.scheduler import read_schedule
from sdsjax.models.loading.sdxl.configs import clip_projection_config
from sdsjax.models.loading.sdxl.mapping import PROJECTION, clip_projection_table
from sdsjax.models.loading.weights import read_json
from sdsjax.models.text_encoders.clip import CLIPTextConfig, CLIPTextProjection
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.unets.sdxl import SDXLConfig

SECOND_ENCODER = Component(
    "model",
    clip_projection_config,
    clip_projection_table,
    CLIPTextProjection,
    lambda cfg: (np.zeros((1, 2), np.int32),),
    (mapping.CLIP_IGNORED, mapping.CLIP_PREFIX + mapping.CLIP_IGNORED),
)


class SDXL(NamedTuple):
    """The networks of one folder, its tokenizers, and how its UNet was trained.

    zeros_for_empty: whether the empty text's states are zeros and not encoded.
    """

    unet: Network
    vae: Network
    text_encoder: Network
    tokenizer: Tokenizer
    schedule: NoiseSchedule
    prediction_type: str
    text_encoder_2: Network
    tokenizer_2: Tokenizer
    zeros_for_empty: bool


def is_sdxl(root: Path) -> bool:
    """Whether a folder's UNet is SDXL's. Raises LoaderError where there is none."""
    return type(hub.read_config(root, "unet")) is SDXLConfig


def load_sdxl(
    root: Path,
    *,
    variant: str | None = None,
    dtype=jnp.float32,
    sharding=None,
    vae: Network | None = None,
) -> SDXL:
    """Load all of a local SDXL folder; arguments as in `hub.load_component`.

    vae: one that was read already, in the place of the folder's. Raises LoaderError,
    also where the components do not belong together, before weights are read.
    """
    check_parts(root)
    form = {"variant": variant, "dtype": dtype, "sharding": sharding}
    unet, text = (
        hub.load_component(root, name, **form) for name in ("unet", "text_encoder")
    )
    if vae is None:
        vae = hub.load_component(root, "vae", **form)
    second = hub.load(SECOND_ENCODER, root / "text_encoder_2", variant, dtype, sharding)
    check_latents(root, unet.config.unet, vae.config)
    schedule, prediction_type = read_schedule(root / "scheduler")
    tokenizer, other = read_tokenizers(root, (text.config, second.config.text))
    return SDXL(
        unet, vae, text, tokenizer, schedule, prediction_type, second, other,
        zeros_for_empty(root),
    )  # fmt: skip


def read_tokenizers(root: Path, texts: Sequence[CLIPTextConfig]) -> list[Tokenizer]:
    """Reads the tokenizers of two text encoders whose states stand side by side.

    texts: the encoders' configs. Raises LoaderError for one with more tokens than its
    encoder knows, and for texts of different lengths.
    """
    made = []
    for name, text in zip(("tokenizer", "tokenizer_2"), texts, strict=True):
        tokenizer = Tokenizer.from_folder(root / name, text.positions)
        check_tokens(root / name, tokenizer.vocab_size, text.vocab_size)
        made.append(tokenizer)
    lengths = {tokenizer.length for tokenizer in made}
    if len(lengths) > 1:
        raise LoaderError(
            f"{root}: its tokenizers give {min(lengths)} and {max(lengths)} tokens; "
            "expected equally many, since their states stand side by side"
        )
    return made


def check_tokens(folder: Path, tokens: int, known: int) -> None:
    """Raises LoaderError for a tokenizer with more tokens than its encoder knows."""
    if tokens > known:
        raise LoaderError(f"{folder}: has {tokens} tokens, its text encoder {known}")


def zeros_for_empty(root: Path) -> bool:
    """Reads `force_zeros_for_empty_prompt`; true where it is not said, as published.

    Raises LoaderError for another value than true and false.
    """
    path = root / "model_index.json"
    key = "force_zeros_for_empty_prompt"
    said = read_json(path).get(key, True) if path.is_file() else True
    if type(said) is not bool:
        raise LoaderError(f"{path}: {key} = {said!r}; expected true or false")
    return said


def check_latents(root, unet, vae) -> None:
    """Raises LoaderError where a UNet's latents are not its VAE's; configs of both."""
    for key in ("in_channels", "out_channels"):
        if getattr(unet, key) != vae.latent_channels:
            raise LoaderError(
                f"{root}: unet {key} = {getattr(unet, key)} does not fit its VAE; "
                f"expected {vae.latent_channels}"
            )


def check_parts(root: Path) -> None:
    """Raises LoaderError where UNet and text encoders do not belong together."""
    if not (root / "text_encoder_2").is_dir():
        raise LoaderError(
            f"{root}: an SDXL folder without text_encoder_2: its UNet needs the states "
            "of both text encoders; fetch the whole folder"
        )
    if not (root / "text_encoder").is_dir():
        raise LoaderError(
            f"{root}: an SDXL folder without text_encoder: the refiner's is such, "
            "which cannot be distilled alone; name the base's folder"
        )
    unet, text = (hub.read_config(root, name) for name in ("unet", "text_encoder"))
    second = hub.config_of(SECOND_ENCODER, root / "text_encoder_2")
    if not isinstance(text, CLIPTextConfig):
        raise LoaderError(f"{root}: its text_encoder is no CLIP; SDXL's is")
    both = text.hidden + second.text.hidden
    for what, found, expected, why in (
        (
            "cross_attention_dim", unet.unet.context, both,
            f"{text.hidden} + {second.text.hidden} of its text encoders",
        ),
        (
            "pooled width", unet.pooled, second.projection,
            f"the width of text_encoder_2's {PROJECTION}",
        ),
    ):  # fmt: skip
        if found != expected:
            raise LoaderError(
                f"{root}: unet {what} = {found}; expected {expected}, {why}"
            )
