"""A whole folder of Stable Diffusion 3 or 3.5, read as strictly as `hub` reads others.

It has `transformer` in the place of `unet`, and three text encoders: CLIP-L and
OpenCLIP-bigG, both with projection, and T5-XXL, which may be left out. The states of
the CLIPs' last layer but one stand side by side and are padded with zeros to T5's
width; T5's 256 tokens come after their 77. The pooled text is both projections in a
row. Without T5 its tokens are zeros, as in the published pipeline. No mask hides
padding from anything.
"""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.hub import Network
from sdsjax.models.loading.repositories.snapshots import T5_FOLDERS
from sdsjax.models.loading.sdxl.folder import (
    SECOND_ENCODER,
    check_tokens,
    read_tokenizers,
)
from sdsjax.models.loading.weights import read_json
from sdsjax.models.mmdit import MMDiTConfig, cropped
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.text_encoders.t5 import T5Config
from sdsjax.models.text_encoders.t5_tokenizer import T5Tokenizer

FOLDERS = (
    *("transformer", "vae", "scheduler", "text_encoder", "tokenizer"),
    *("text_encoder_2", "tokenizer_2"),
)
T5_TOKENS = 256
# of model_index.json, where a folder's transformer was trained with another number of
# T5's tokens (0: without any); diffusers ignores it
TOKENS_KEY = "_t5_tokens"
CLIPS = ("text_encoder", "text_encoder_2")
LEFT_OUT = "pass --config.prior.text_encoder_3=false"


class TextEncoders(NamedTuple):
    """The text encoders with their tokenizers; third: T5 and its own, or None.

    t5_tokens: how many of T5's the transformer is told, zeros where there is no T5.
    """

    clips: tuple[tuple[Network, Tokenizer], ...]
    third: tuple[Network, T5Tokenizer] | None
    t5_tokens: int = T5_TOKENS


def folders_of(text_encoder_3: bool) -> tuple[str, ...]:
    """The subfolders that are wanted of a repository."""
    return FOLDERS + (T5_FOLDERS if text_encoder_3 else ())


def t5_tokens(root: Path) -> int:
    """Reads how many of T5's tokens a local folder's transformer is told.

    Raises LoaderError for what is no number of tokens.
    """
    path = root / "model_index.json"
    said = read_json(path).get(TOKENS_KEY, T5_TOKENS) if path.is_file() else T5_TOKENS
    if type(said) is not int or said < 0:
        raise LoaderError(f"{path}: {TOKENS_KEY} = {said!r}; expected 0 or more")
    return said


def check_parts(root: Path, text_encoder_3: bool) -> MMDiTConfig:
    """Reads the small files and returns the transformer's config.

    Raises LoaderError where components are missing or do not belong together, before
    gigabytes are read.
    """
    config = hub.read_config(root, "transformer")
    for name in CLIPS:
        if not (root / name).is_dir():
            raise LoaderError(
                f"{root}: no subfolder {name}: the transformer needs the pooled text "
                "of both CLIPs; fetch the whole folder"
            )
    clips = [hub.config_of(SECOND_ENCODER, root / name) for name in CLIPS]
    wide = sum(clip.text.hidden for clip in clips)
    pooled, vae = sum(clip.projection for clip in clips), hub.read_config(root, "vae")
    if wide > config.context:
        raise LoaderError(
            f"{root}: transformer joint_attention_dim = {config.context}; expected at "
            f"least {wide}, the width of both CLIPs"
        )
    for what, found, expected, why in (
        ("pooled_projection_dim", config.pooled, pooled, "both CLIPs' projections"),
        ("in_channels", config.in_channels, vae.latent_channels, "its VAE's latents"),
    ):
        if found != expected:
            raise LoaderError(
                f"{root}: transformer {what} = {found}; expected {expected}, as {why}"
            )
    if text_encoder_3:
        _check_t5(root, config)
    return config


def _check_t5(root: Path, config: MMDiTConfig) -> None:
    if not (root / "text_encoder_3").is_dir():
        raise LoaderError(
            f"{root}: no subfolder text_encoder_3: fetch it, or {LEFT_OUT}, which puts "
            "zeros in the place of T5's states"
        )
    third = hub.config_of(hub.COMPONENTS["text_encoder"], root / "text_encoder_3")
    if not isinstance(third, T5Config):
        raise LoaderError(
            f"{root}: its text_encoder_3 is no T5; Stable Diffusion 3's is"
        )
    if third.hidden != config.context:
        raise LoaderError(
            f"{root}: transformer joint_attention_dim = {config.context}; expected "
            f"{third.hidden}, the width of text_encoder_3"
        )


def load_text(root: Path, text_encoder_3: bool, **form) -> TextEncoders:
    """Reads the text encoders of a local folder; form: variant, dtype, sharding.

    Raises LoaderError, also for a tokenizer with more tokens than its encoder knows.
    """
    networks = [hub.load(SECOND_ENCODER, root / name, **form) for name in CLIPS]
    texts = [network.config.text for network in networks]
    clips = tuple(zip(networks, read_tokenizers(root, texts), strict=True))
    tokens = t5_tokens(root)
    if not text_encoder_3:
        return TextEncoders(clips, None, tokens)
    third = hub.load(hub.COMPONENTS["text_encoder"], root / "text_encoder_3", **form)
    tokenizer = T5Tokenizer.from_folder(root / "tokenizer_3", tokens)
    check_tokens(root / "tokenizer_3", tokenizer.vocab_size, third.config.vocab_size)
    return TextEncoders(clips, (third, tokenizer), tokens)


def with_positions(network: Network, side: int) -> Network:
    """Keeps of the position embeddings those of `side` x `side` tokens.

    Of 3.5-medium's table, 0.45 GB in half precision, 1024 pixels need 1/36.
    """
    config = network.config._replace(positions=side)
    table = cropped(network.params["pos_embed"], network.config.positions, side, side)
    params = {**network.params, "pos_embed": jnp.asarray(table)}
    return Network(network.module.clone(config=config), params, config)
