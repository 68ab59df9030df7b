"""Stable Diffusion 3 and 3.5 as a prior: flow matching on an MMDiT.

Shapes: x [h w 3] in [-1, 1]; z [h/8 w/8 16] = scaling times (posterior mean - shift).
z_t = (1 - s) z + s eps; the network is told 1000 s and predicts v = eps - z, so that
the noise is z_t + (1 - s) v. What it is told of a text is a `Text`: states and pooled
text. The text encoders are read first and dropped before the transformer is read: T5
alone has twice its parameters. All else (view words, Perp-Neg,
VSD's second network, monocular estimates) is `stable_diffusion`'s.
Source: arXiv 2403.03206.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from sdsjax.diffusion import prompts
from sdsjax.models.loading import hub
from sdsjax.models.loading.scheduler import read_flow_schedule
from sdsjax.models.loading.sd3 import folder as sd3
from sdsjax.models.mmdit import MMDiTConfig, Text
from sdsjax.priors.monocular import check_folders, with_networks
from sdsjax.priors.prompt_states import PromptStates, encode_tokens, of_texts
from sdsjax.priors.second_network import AdapterNetwork
from sdsjax.priors.stable_diffusion import (
    FrozenWeights,
    StaticNetworks,
    bind,
    with_remat,
)
from sdsjax.types import PriorSource


def encode_texts(encoders: sd3.TextEncoders, texts: list[str], width: int) -> Text:
    """Returns what the transformer is told of texts: states [m 77 + 256 width], pooled.

    width: of T5's states, to which the CLIPs' are padded; without T5 its tokens are
    zeros.
    """
    states, pooled = [], []
    for network, tokenizer in encoders.clips:
        ids = jnp.asarray(tokenizer(texts))
        each, projected = encode_tokens(network.module, network.params, ids)
        states.append(each)
        pooled.append(projected)
    clip = jnp.concatenate(states, axis=-1)
    clip = jnp.pad(clip, ((0, 0), (0, 0), (0, width - clip.shape[-1])))
    if encoders.third is None:
        more = jnp.zeros((len(texts), encoders.t5_tokens, width), clip.dtype)
    else:
        network, tokenizer = encoders.third
        ids = jnp.asarray(tokenizer(texts).ids)  # no mask, as in training
        more = encode_tokens(network.module, network.params, ids).astype(clip.dtype)
    return Text(jnp.concatenate([clip, more], 1), jnp.concatenate(pooled, -1))


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
    text_encoder_3: bool = True,
    lora_rank: int = 4,
    depth_folder: str = "",
    normals_folder: str = "",
    perp_neg: bool = False,
    remat: str = "auto",
    sharding=None,
) -> PriorSource:
    """Reads a folder (or repository) of Stable Diffusion 3 and encodes the prompt.

    `text_encoder_3`: false puts zeros in the place of T5's states. `lora_rank`: of
    VSD's second network, on the same transformer. The rest: `stable_diffusion.load`.
    Raises the loader's one-line errors and ValueError for what does not fit.
    """
    check_folders(depth_folder, normals_folder)
    asked = {"revision": revision, "variant": variant, "prior": "stable_diffusion3"}
    root = hub.resolve(folder, folders=sd3.folders_of(text_encoder_3), **asked)
    text_encoder_3 = text_encoder_3 and sd3.t5_tokens(root) > 0
    config = sd3.check_parts(root, text_encoder_3)
    schedule, prediction_type = read_flow_schedule(root / "scheduler")
    factor = hub.read_config(root, "vae").factor
    size = _image_size(config, factor, image_size, folder)
    form = {"variant": variant, "dtype": dtype, "sharding": sharding}
    states = _prompt_states(
        sd3.load_text(root, text_encoder_3, **form),
        prompt,
        negative_prompt,
        config.context,
        view_words if view_prompts else None,
    )
    transformer, vae = (
        hub.load_component(root, name, **form) for name in ("transformer", "vae")
    )
    if sharding is None:
        transformer = sd3.with_positions(transformer, size // factor // config.patch)
    networks = StaticNetworks(
        transformer.module,
        vae.module,
        schedule,
        prediction_type,
        view_prompts,
        AdapterNetwork(transformer.module, prediction_type, lora_rank),
        perp_neg=perp_neg,
    )
    weights = FrozenWeights(transformer.params, vae.params, states)
    folders = {"depth": depth_folder, "normals": normals_folder}
    networks, weights = with_networks(networks, weights, folders, dtype, sharding)
    bound = partial(bind, networks=with_remat(networks, remat, size))
    return PriorSource(weights, bound, (size, size, 3))


def _prompt_states(
    encoders: sd3.TextEncoders,
    prompt: str,
    negative: str,
    width: int,
    words: prompts.ViewWords | None,
) -> PromptStates:
    # nothing of the encoders is alive once this has returned
    if words is not None:
        tokenizer = encoders.clips[0][1]
        prompt = tokenizer.shorten(prompt, prompts.view_endings(words))
    table = prompts.view_prompts(prompt, words or prompts.TWO_SIDED)
    told = encode_texts(encoders, [*table, "", negative], width)
    return of_texts(jax.block_until_ready(told))


def _image_size(
    config: MMDiTConfig, factor: int, asked: int | None, folder: str
) -> int:
    size, pixels = asked or config.sample_size * factor, factor * config.patch
    most = pixels * config.positions
    if size % pixels or size > most:
        raise ValueError(
            f"prior.image_size = {size} must be a multiple of {pixels}, the pixels a "
            f"token of {folder}, and at most {most}"
        )
    return size
