"""Stable Diffusion as a prior: a UNet, a VAE and prompts encoded once.

Shapes: x [h w 3] in [-1, 1]; z [h/f w/f c] = scaling factor times the posterior mean;
text states [n d]. The branches asked for run as one batch. The prompt's words follow
the camera (prompts.py): its states are a table with one row a side and one without
view words. A v-prediction network is converted: eps = alpha v + sigma z_t. The text
encoder is dropped once the prompts are encoded. VSD's second network:
second_network.py.
Sources: latent diffusion arXiv 2112.10752; view-dependent prompts arXiv 2209.14988.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax import cameras
from sdsjax.diffusion import NoiseSchedule, prompts, velocity_to_noise
from sdsjax.models.loading import hub
from sdsjax.models.vision.dpt import DPT
from sdsjax.priors.monocular import bound_estimate, check_folders, with_networks
from sdsjax.priors.prompt_states import PromptStates, encode_prompts, prompt_row
from sdsjax.priors.second_network import (
    AdapterNetwork,
    AdapterWeights,
    load_adapter,
    lora_adapter,
)
from sdsjax.types import NoisePrediction, Prior, PriorSource

# from so many pixels a side the encoder's blocks are computed again in the pullback: at
# 512 that keeps 0.6 GB an image instead of 4.9; the toybox's few are not worth a third
# more operations
REMAT_FROM = 256


class FrozenWeights(NamedTuple):
    """The arrays that enter the jitted step as an argument.

    unet, vae: parameters; states: of the prompts; adapter: None where the second
    network is the prior's own UNet; depth, normals: parameters of the monocular
    estimate, None where there is none.
    """

    unet: dict
    vae: dict
    states: PromptStates
    adapter: AdapterWeights | None = None
    depth: dict | None = None
    normals: dict | None = None


class StaticNetworks(NamedTuple):
    """The static half of the prior: modules, and how their outputs are meant.

    prediction_type: "epsilon" or "v_prediction"; scaling_factor: of the VAE's latents;
    view_prompts: whether the prompt's words follow the camera; perp_neg: whether
    Perp-Neg is folded into `cond`; depth, normals: of the monocular estimate.
    """

    unet: nn.Module
    vae: nn.Module
    schedule: NoiseSchedule
    prediction_type: str
    scaling_factor: float
    view_prompts: bool
    adapter: AdapterNetwork
    depth: DPT | None = None
    normals: DPT | None = None
    perp_neg: bool = False


def perp_neg_noise(predict, states: PromptStates, z_t, t, view, branches):
    """Predicts the branches, `cond` with Perp-Neg folded in.

    The positive prompt's text states are interpolated between the two sides that are
    seen; the other sides are negatives. Four prompts run in one batch instead of two,
    and a fifth for the negative one. The null camera has no sides. predict: (z_t, t,
    states [m n d]) -> eps [m ...].
    """
    place = prompts.perp_neg_view(*cameras.camera_angles(view.camera))
    seen = jnp.any(view.camera.world_to_camera != 0)
    mix = place.mix.astype(states.cond.dtype)
    positive = jnp.tensordot(mix, states.cond[place.rows], axes=1)
    positive = jnp.where(seen, positive, states.cond[prompts.ANY])
    asked = [positive, states.uncond, *states.cond[place.negatives]]
    if "negative" in branches:
        asked.append(states.negative)
    cond, uncond, first, second, *negative = predict(z_t, t, jnp.stack(asked))
    weights = jnp.where(seen, place.weights, 0.0)
    cond = prompts.perp_neg(cond, uncond, jnp.stack([first, second]), weights)
    found = {"cond": cond, "uncond": uncond, "negative": (*negative, None)[0]}
    return NoisePrediction(**{branch: found[branch] for branch in branches})


def bind(weights: FrozenWeights, networks: StaticNetworks) -> Prior:
    """Binds parameters and static networks into a Prior, inside jit."""
    weights = jax.lax.stop_gradient(weights)
    second = weights.adapter or AdapterWeights(weights.unet, weights.states.cond)
    return Prior(
        schedule=networks.schedule,
        noise=partial(_noise, weights, networks),
        encode=partial(_encode, weights, networks),
        decode=partial(_decode, weights, networks),
        monocular=bound_estimate(networks, weights),
        adapter=lora_adapter(
            networks.adapter, second, networks.schedule, networks.view_prompts
        ),
    )


def _predict(weights: FrozenWeights, networks: StaticNetworks, z_t, t, states):
    # eps [m ...] of one z_t for text states [m n d], as one batch
    count = states.shape[0]
    out: Any = networks.unet.apply(
        {"params": weights.unet},
        jnp.broadcast_to(z_t, (count, *z_t.shape)),
        jnp.broadcast_to(t, (count,)),
        states,
    )
    out = out.astype(z_t.dtype)
    if networks.prediction_type == "v_prediction":
        out = velocity_to_noise(networks.schedule, z_t, out, t)
    return out


def _noise(
    weights: FrozenWeights,
    networks: StaticNetworks,
    z_t,
    t,
    view=None,
    branches=("cond", "uncond"),
):
    predict, states = partial(_predict, weights, networks), weights.states
    view_prompts = networks.view_prompts
    posed = view is not None and view.camera is not None and view_prompts
    if networks.perp_neg and posed and "cond" in branches:
        return perp_neg_noise(predict, states, z_t, t, view, branches)
    row = prompt_row(view) if view_prompts else prompts.ANY
    rows = {
        "cond": states.cond[row],
        "uncond": states.uncond,
        "negative": states.negative,
    }
    out = predict(z_t, t, jnp.stack([rows[branch] for branch in branches]))
    return NoisePrediction(**dict(zip(branches, out)))


def _encode(weights: FrozenWeights, networks: StaticNetworks, x):
    mean, _ = networks.vae.apply({"params": weights.vae}, x[None], method="encode")
    return (networks.scaling_factor * mean[0]).astype(x.dtype)


def _decode(weights: FrozenWeights, networks: StaticNetworks, z):
    x: Any = networks.vae.apply(
        {"params": weights.vae}, z[None] / networks.scaling_factor, method="decode"
    )
    return x[0].astype(z.dtype)


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
    adapter_folder: str = "",
    lora_rank: int = 4,
    depth_folder: str = "",
    normals_folder: str = "",
    perp_neg: bool = False,
    sharding=None,
) -> PriorSource:
    """Reads a Stable Diffusion folder (or repository) and encodes the prompt.

    `variant`: "fp16" for files so named. `image_size`: side in pixels of the images
    that are encoded (default: the network's own); a multiple of the VAE's factor.
    `adapter_folder`: where the UNet beneath VSD's LoRA is read from (default: the
    prior's own is shared). `depth_folder`: a DPT, for the prior's monocular estimate
    (default: none). `normals_folder`: a second DPT, for its normals (default: drawn
    from disparity). `perp_neg`: fold Perp-Neg (arXiv 2304.04968) into `cond`, for twice
    the UNet's work. `sharding`: where parameters go (models/loading/hub). Raises the
    loader's one-line errors and ValueError for an image size or an adapter that does
    not fit, or for normals without a depth.
    """
    check_folders(depth_folder, normals_folder)
    found = hub.load_stable_diffusion(
        folder, revision=revision, variant=variant, dtype=dtype, sharding=sharding
    )
    size = _image_size(found, image_size, folder)
    if view_prompts:
        prompt = found.tokenizer.shorten(prompt, prompts.view_endings(view_words))
    table = prompts.view_prompts(prompt, view_words)
    states = encode_prompts(found.text_encoder, found.tokenizer, table, negative_prompt)
    networks = StaticNetworks(
        found.unet.module,
        found.vae.module.clone(remat=size >= REMAT_FROM),
        found.schedule,
        found.prediction_type,
        found.vae.module.config.scaling_factor,
        view_prompts,
        AdapterNetwork(found.unet.module, found.prediction_type, lora_rank),
        perp_neg=perp_neg,
    )
    weights = FrozenWeights(found.unet.params, found.vae.params, states)
    if adapter_folder not in ("", folder):
        form = {"rank": lora_rank, "dtype": dtype, "sharding": sharding}
        adapter, second = load_adapter(adapter_folder, table, found, **form)
        networks = networks._replace(adapter=adapter)
        weights = weights._replace(adapter=second)
    folders = {"depth": depth_folder, "normals": normals_folder}
    networks, weights = with_networks(networks, weights, folders, dtype, sharding)
    # a partial, not a closure: it would keep the text encoder alive with `found`
    return PriorSource(weights, partial(bind, networks=networks), (size, size, 3))


def _image_size(found: hub.StableDiffusion, asked: int | None, folder: str) -> int:
    factor = found.vae.module.config.factor
    size = asked or found.unet.module.config.sample_size * factor
    if size % factor:
        raise ValueError(
            f"prior.image_size = {size} must be a multiple of {factor}, the pixels a "
            f"latent of {folder}"
        )
    return size
