"""DeepFloyd IF's first stage as a prior: a pixel-space UNet and prompts encoded once.

Shapes: x [h w 3] in [-1, 1]; z = x at the UNet's own size [s s 3], s = 64 for the
published weights: a larger image is averaged down, a smaller one interpolated. T5's
states [n d], n = 77: the mask of padding enters T5, not the UNet, which sees all n. The
UNet predicts the noise and a variance; the variance only a sampler needs, so it is
dropped. The branches asked for run as one batch, the prompt's words follow the camera,
and the text encoder, the larger of the two networks, is freed before the UNet is read.
Sources: Imagen arXiv 2205.11487; learned variance arXiv 2102.09672; view-dependent
prompts arXiv 2209.14988.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, prompts
from sdsjax.models.loading import hub
from sdsjax.models.loading.errors import LoaderError
from sdsjax.models.loading.weights import read_json
from sdsjax.models.text_encoders.t5 import T5Config
from sdsjax.models.text_encoders.t5_tokenizer import T5Tokenizer
from sdsjax.models.unets.deepfloyd import IFUNetConfig
from sdsjax.priors.prompt_states import (
    PromptStates,
    encode_tokens,
    of_texts,
    prompt_row,
)
from sdsjax.types import NoisePrediction, Prior, PriorSource

FOLDERS = ("unet", "text_encoder", "tokenizer", "scheduler")
TOKENS = 77
LEARNED = ("learned", "learned_range")


class FrozenWeights(NamedTuple):
    """The arrays that enter the jitted step: parameters and prompt states."""

    unet: dict
    states: PromptStates


def encode_prompts(
    text_encoder: hub.Network,
    tokenizer: T5Tokenizer,
    prompt_table: list[str],
    negative: str,
) -> PromptStates:
    """Encodes every view's prompt, no prompt and the negative one by T5.

    Texts are stripped and lower-cased, as in IF's training.
    """
    texts = [text.strip().lower() for text in (*prompt_table, "", negative)]
    tokens = map(jnp.asarray, tokenizer(texts))
    states = encode_tokens(text_encoder.module, text_encoder.params, *tokens)
    return of_texts(states)


def bind(
    weights: FrozenWeights,
    *,
    unet,
    schedule: NoiseSchedule,
    size: int,
    view_prompts: bool,
) -> Prior:
    """Binds parameters and a static module into a Prior; `size` is z's side."""
    weights = jax.lax.stop_gradient(weights)

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        row = prompt_row(view) if view_prompts else prompts.ANY
        rows = {
            "cond": weights.states.cond[row],
            "uncond": weights.states.uncond,
            "negative": weights.states.negative,
        }
        count = len(branches)
        out = unet.apply(
            {"params": weights.unet},
            jnp.broadcast_to(z_t, (count, *z_t.shape)),
            jnp.broadcast_to(t, (count,)),
            jnp.stack([rows[branch] for branch in branches]),
        )
        eps = out[..., : z_t.shape[-1]].astype(z_t.dtype)
        return NoisePrediction(**dict(zip(branches, eps)))

    def encode(x):
        if x.shape[:2] == (size, size):
            return x
        shape = (size, size, x.shape[-1])
        return jax.image.resize(x, shape, "bilinear", antialias=True)

    return Prior(schedule=schedule, noise=noise, encode=encode, decode=lambda z: z)


def read_configs(root: Path) -> tuple[IFUNetConfig, T5Config, NoiseSchedule]:
    """Reads what the small files say, before gigabytes are read.

    Raises LoaderError where the components are not IF's or do not belong together.
    """
    unet, text = (hub.read_config(root, name) for name in ("unet", "text_encoder"))
    if not isinstance(unet, IFUNetConfig) or not isinstance(text, T5Config):
        raise LoaderError(
            f"{root}: not DeepFloyd IF's first stage; expected its UNet and a T5 text "
            "encoder, as in DeepFloyd/IF-I-XL-v1.0"
        )
    if unet.text_width != text.hidden:
        raise LoaderError(
            f"{root}: unet encoder_hid_dim = {unet.text_width} does not fit its text "
            f"encoder; expected {text.hidden}"
        )
    if unet.in_channels != 3:
        raise LoaderError(
            f"{root}: unet in_channels = {unet.in_channels}; expected 3: later stages "
            "of the cascade are no priors"
        )
    schedule, prediction_type = hub.read_schedule(root / "scheduler")
    path = root / "scheduler" / "scheduler_config.json"
    if prediction_type != "epsilon":
        raise LoaderError(
            f"{path}: prediction_type = {prediction_type!r}; expected 'epsilon'"
        )
    variance = read_json(path).get("variance_type", "fixed_small")
    if (variance in LEARNED) != (unet.out_channels == 2 * unet.in_channels):
        raise LoaderError(
            f"{path}: variance_type = {variance!r} does not fit the "
            f"{unet.out_channels} out_channels of the unet"
        )
    return unet, text, schedule


def load(
    folder: str,
    prompt: str,
    negative_prompt: str = "",
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype=jnp.float32,
    view_prompts: bool = True,
    view_words: prompts.ViewWords = prompts.TWO_SIDED,
    image_size: int | None = None,
    sharding=None,
) -> PriorSource:
    """Reads a folder (or repository) of IF's first stage and encodes the prompt.

    `image_size`: z's side in pixels (default: the network's own). `sharding`: where
    parameters go (models/loading/hub). Raises the loader's one-line errors and
    ValueError for an image size that the UNet cannot halve.
    """
    asked = {"revision": revision, "variant": variant, "prior": "deepfloyd"}
    root = hub.resolve(folder, folders=FOLDERS, **asked)
    config, text, schedule = read_configs(root)
    size = image_size or config.sample_size
    factor = 2 ** (len(config.channels) - 1)
    if size % factor:
        raise ValueError(
            f"prior.image_size = {size} must be a multiple of {factor}: the UNet of "
            f"{folder} halves it {len(config.channels) - 1} times"
        )
    tokenizer = T5Tokenizer.from_folder(root / "tokenizer", TOKENS)
    if tokenizer.vocab_size > text.vocab_size:
        raise LoaderError(
            f"{root}: the tokenizer has {tokenizer.vocab_size} tokens, the text "
            f"encoder {text.vocab_size}"
        )
    if view_prompts:
        prompt = tokenizer.shorten(prompt, prompts.view_endings(view_words))
    read = partial(
        hub.load_component, root, variant=variant, dtype=dtype, sharding=sharding
    )
    states = encode_prompts(
        read("text_encoder"),
        tokenizer,
        prompts.view_prompts(prompt, view_words),
        negative_prompt,
    )
    states = jax.block_until_ready(states)
    network = read("unet")
    bound = partial(
        bind,
        unet=network.module,
        schedule=schedule,
        size=size,
        view_prompts=view_prompts,
    )
    return PriorSource(
        FrozenWeights(network.params, states), bound, (size, size, config.in_channels)
    )
