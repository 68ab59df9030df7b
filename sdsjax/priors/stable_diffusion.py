"""Stable Diffusion as a prior: a UNet, a VAE and prompts encoded once.

It is 1.5, 2.1 or XL, as the folder says. Shapes: x [h w 3] in [-1, 1]; z [h/f w/f c] =
scaling factor times the posterior mean; text states [n d], of XL a pytree with the
pooled text and the picture's size. The branches asked for run as one batch. The
prompt's words follow the camera (prompts.py): its states are a table with one row a
side and one without view words. A v-prediction network is converted: eps = alpha v +
sigma z_t. The text encoders are dropped once the prompts are encoded. VSD's second
network: second_network.py.
Sources: latent diffusion arXiv 2112.10752; SDXL arXiv 2307.01952; view-dependent
prompts arXiv 2209.14988.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdsjax import cameras
from sdsjax.diffusion import NoiseSchedule, prompts, velocity_to_noise
from sdsjax.models.loading import hub
from sdsjax.models.loading.sdxl.folder import SDXL
from sdsjax.models.vae import AutoencoderKL, VAEConfig
from sdsjax.models.vision.dpt import DPT
from sdsjax.priors.monocular import bound_estimate, check_folders, with_networks
from sdsjax.priors.prompt_states import (
    PromptStates,
    encode_prompts,
    prompt_row,
    stacked,
)
from sdsjax.priors.read_networks import load_networks, remat_of
from sdsjax.priors.second_network import (
    AdapterNetwork,
    AdapterWeights,
    load_adapter,
    lora_adapter,
)
from sdsjax.types import NoisePrediction, Prior, PriorSource


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

    unet: or a transformer, called alike; prediction_type: "epsilon" or "v_prediction";
    view_prompts: whether the prompt's words follow the camera; perp_neg: whether
    Perp-Neg is folded into `cond`; depth, normals: of the monocular estimate.
    """

    unet: nn.Module
    vae: nn.Module  # an AutoencoderKL
    schedule: NoiseSchedule
    prediction_type: str
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
    states [m ...]) -> eps [m ...].
    """
    place = prompts.perp_neg_view(*cameras.camera_angles(view.camera))
    seen = jnp.any(view.camera.world_to_camera != 0)

    def mixed(leaf):
        between = jnp.tensordot(place.mix.astype(leaf.dtype), leaf[place.rows], axes=1)
        return jnp.where(seen, between, leaf[prompts.ANY])

    sides = [states.row(place.negatives[i]) for i in range(2)]
    asked = [jax.tree.map(mixed, states.cond), states.uncond, *sides]
    if "negative" in branches:
        asked.append(states.negative)
    cond, uncond, first, second, *negative = predict(z_t, t, stacked(asked))
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
    # eps [m ...] of one z_t for text states [m ...], as one batch
    count = jax.tree.leaves(states)[0].shape[0]
    out: Any = networks.unet.apply(
        {"params": weights.unet},
        jnp.broadcast_to(z_t, (count, *z_t.shape)),
        jnp.broadcast_to(networks.schedule.network_time(t), (count,)),
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
        "cond": states.row(row),
        "uncond": states.uncond,
        "negative": states.negative,
    }
    out = predict(z_t, t, stacked([rows[branch] for branch in branches]))
    return NoisePrediction(**dict(zip(branches, out)))


def _latents(networks: StaticNetworks) -> VAEConfig:
    return cast(AutoencoderKL, networks.vae).config


def _encode(weights: FrozenWeights, networks: StaticNetworks, x):
    mean, _ = networks.vae.apply({"params": weights.vae}, x[None], method="encode")
    return _latents(networks).to_latents(mean[0]).astype(x.dtype)


def _decode(weights: FrozenWeights, networks: StaticNetworks, z):
    given = _latents(networks).from_latents(z[None])
    x: Any = networks.vae.apply({"params": weights.vae}, given, method="decode")
    return x[0].astype(z.dtype)


def with_remat(networks: StaticNetworks, remat: str, size: int) -> StaticNetworks:
    """Says what gradients keep of the networks that they pass through.

    They are the encoder, of pictures of `size` pixels, and VSD's second network; remat:
    as in `load`.
    """
    vae, adapter = networks.vae, networks.adapter
    unet = adapter.unet.clone(remat=remat_of(remat))
    return networks._replace(
        vae=vae.clone(remat=remat_of(remat, size)), adapter=adapter._replace(unet=unet)
    )


def load(
    folder: str,
    prompt: str,
    negative_prompt: str = "",
    *,
    dtype=jnp.float32,
    view_prompts: bool = True,
    view_words: prompts.ViewWords = prompts.TWO_SIDED,
    image_size: int | None = None,
    adapter_folder: str = "",
    lora_rank: int = 4,
    depth_folder: str = "",
    normals_folder: str = "",
    perp_neg: bool = False,
    remat: str = "auto",
    sharding=None,
    **files,
) -> PriorSource:
    """Reads Stable Diffusion's networks and encodes the prompt.

    `folder`: or a repository, or a single file; `files`: what else is said of it
    (`read_networks.load_networks`). `image_size`: side in pixels of the images that are
    encoded (default: the network's own); a multiple of the VAE's factor. SDXL is told
    it as their size. `adapter_folder`: where the UNet beneath VSD's LoRA is read from
    (default: the prior's own is shared). `depth_folder`: a DPT, for the prior's
    monocular estimate (default: none). `normals_folder`: a second DPT, for its normals
    (default: drawn from disparity). `perp_neg`: fold Perp-Neg (arXiv 2304.04968) into
    `cond`, for twice the UNet's work. `remat`: what gradients keep (`with_remat`).
    `sharding`: where parameters go (models/loading/hub). Raises the loader's one-line
    errors and ValueError for what does not fit, or for normals without a depth.
    """
    check_folders(depth_folder, normals_folder)
    form = {"dtype": dtype, "sharding": sharding}
    found = load_networks(folder, **files, **form)
    size = _image_size(found, image_size, folder)
    if view_prompts:
        prompt = found.tokenizer.shorten(prompt, prompts.view_endings(view_words))
    table = prompts.view_prompts(prompt, view_words)
    states = encode_prompts(found, table, negative_prompt, size)
    networks = StaticNetworks(
        found.unet.module,
        found.vae.module,
        found.schedule,
        found.prediction_type,
        view_prompts,
        AdapterNetwork(found.unet.module, found.prediction_type, lora_rank),
        perp_neg=perp_neg,
    )
    weights = FrozenWeights(found.unet.params, found.vae.params, states)
    if adapter_folder not in ("", folder):
        adapter, second = load_adapter(
            adapter_folder, table, found, rank=lora_rank, size=size, **form
        )
        networks = networks._replace(adapter=adapter)
        weights = weights._replace(adapter=second)
    folders = {"depth": depth_folder, "normals": normals_folder}
    networks, weights = with_networks(networks, weights, folders, dtype, sharding)
    # a partial, not a closure: it would keep the text encoder alive with `found`
    bound = partial(bind, networks=with_remat(networks, remat, size))
    return PriorSource(weights, bound, (size, size, 3))


def _image_size(
    found: hub.StableDiffusion | SDXL, asked: int | None, folder: str
) -> int:
    factor = found.vae.module.config.factor
    config = found.unet.module.config
    native = config.unet if isinstance(found, SDXL) else config
    size = asked or native.sample_size * factor
    if size % factor:
        raise ValueError(
            f"prior.image_size = {size} must be a multiple of {factor}, the pixels a "
            f"latent of {folder}"
        )
    return size
