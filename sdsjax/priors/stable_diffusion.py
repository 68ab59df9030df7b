"""Stable Diffusion as a prior: a UNet, a VAE and prompts encoded once.

Shapes: x [h w 3] in [-1, 1]; z [h/f w/f c] = scaling factor times the posterior mean;
text states [n d]. The branches asked for run as one batch. The prompt's words follow
the camera (prompts.py): its states are a table with one row a side and one without
view words. A v-prediction network is converted: eps = alpha v + sigma z_t. The text
encoder is dropped once the prompts are encoded.
Sources: latent diffusion arXiv 2112.10752; view-dependent prompts arXiv 2209.14988.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import cameras, prompts
from sdsjax.diffusion import NoiseSchedule, velocity_to_noise
from sdsjax.models import hub
from sdsjax.types import NoisePrediction, Prior, PriorSource


class PromptStates(NamedTuple):
    """cond [6 n d]: a row for each of prompts.FRONT..ANY; uncond, negative [n d]."""

    cond: jax.Array
    uncond: jax.Array
    negative: jax.Array


class FrozenWeights(NamedTuple):
    """What enters the jitted step as an argument: parameters and prompt states."""

    unet: dict
    vae: dict
    states: PromptStates


def encode_prompts(
    text_encoder: hub.Network, tokenizer, prompt_table: list[str], negative: str
) -> PromptStates:
    """Text states of every view's prompt, of no prompt and of the negative one."""
    ids = jnp.asarray(tokenizer([*prompt_table, "", negative]))
    encode = jax.jit(lambda p, i: text_encoder.module.apply({"params": p}, i))
    states = encode(text_encoder.params, ids)
    return PromptStates(states[:-2], states[-2], states[-1])


def _which_view(view) -> jax.Array:
    if view is None or view.camera is None:
        return jnp.asarray(prompts.ANY, jnp.int32)
    return prompts.view_index(*cameras.camera_angles(view.camera))


def bind(
    weights: FrozenWeights,
    *,
    unet,
    vae,
    schedule: NoiseSchedule,
    prediction_type: str,
    scaling_factor: float,
    view_prompts: bool,
) -> Prior:
    """The Prior of bound parameters; `unet` and `vae` are the (static) modules."""
    weights = jax.lax.stop_gradient(weights)

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        row = _which_view(view) if view_prompts else prompts.ANY
        rows = {
            "cond": weights.states.cond[row],
            "uncond": weights.states.uncond,
            "negative": weights.states.negative,
        }
        states = jnp.stack([rows[branch] for branch in branches])
        count = len(branches)
        out = unet.apply(
            {"params": weights.unet},
            jnp.broadcast_to(z_t, (count, *z_t.shape)),
            jnp.broadcast_to(t, (count,)),
            states,
        ).astype(z_t.dtype)
        if prediction_type == "v_prediction":
            out = velocity_to_noise(schedule, z_t, out, t)
        return NoisePrediction(**dict(zip(branches, out)))

    def encode(x):
        mean, _ = vae.apply({"params": weights.vae}, x[None], method="encode")
        return (scaling_factor * mean[0]).astype(x.dtype)

    def decode(z):
        x = vae.apply(
            {"params": weights.vae}, z[None] / scaling_factor, method="decode"
        )
        return x[0].astype(z.dtype)

    return Prior(schedule=schedule, noise=noise, encode=encode, decode=decode)


def load(
    folder: str,
    prompt: str,
    negative_prompt: str = "",
    *,
    revision: str | None = None,
    dtype=jnp.float32,
    view_prompts: bool = True,
    view_words: prompts.ViewWords = prompts.TWO_SIDED,
    image_size: int | None = None,
) -> PriorSource:
    """Reads a Stable Diffusion folder (or repository) and encodes the prompt.

    `image_size`: side in pixels of the images that are encoded (default: the
    network's own); a multiple of the VAE's factor. Raises the loader's one-line errors
    and ValueError for an image size that does not fit.
    """
    networks = hub.load_stable_diffusion(folder, revision=revision, dtype=dtype)
    vae_config = networks.vae.module.config
    factor = vae_config.factor
    size = image_size or networks.unet.module.config.sample_size * factor
    if size % factor:
        raise ValueError(
            f"prior.image_size = {size} must be a multiple of {factor}, the pixels a "
            f"latent of {folder}"
        )
    table = prompts.view_prompts(prompt, view_words)
    states = encode_prompts(
        networks.text_encoder, networks.tokenizer, table, negative_prompt
    )
    weights = FrozenWeights(networks.unet.params, networks.vae.params, states)

    def bound(params: FrozenWeights) -> Prior:
        return bind(
            params,
            unet=networks.unet.module,
            vae=networks.vae.module,
            schedule=networks.schedule,
            prediction_type=networks.prediction_type,
            scaling_factor=vae_config.scaling_factor,
            view_prompts=view_prompts,
        )

    return PriorSource(weights, bound, (size, size, 3))
