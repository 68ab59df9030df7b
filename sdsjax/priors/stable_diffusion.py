"""Stable Diffusion as a prior: a UNet, a VAE and prompts encoded once.

Shapes: x [h w 3] in [-1, 1]; z [h/f w/f c] = scaling factor times the posterior mean;
text states [n d]. The branches asked for run as one batch. The prompt's words follow
the camera (prompts.py): its states are a table with one row a side and one without
view words. A v-prediction network is converted: eps = alpha v + sigma z_t. The text
encoder is dropped once the prompts are encoded.

The adapter is VSD's second network: LoRA on this UNet, or on that of a second folder
with its own text states and its own kind of prediction. A camera whose world_to_camera
is all zeros is the null camera: no view words and a blank camera embedding.
Sources: latent diffusion arXiv 2112.10752; view-dependent prompts arXiv 2209.14988;
VSD arXiv 2305.16213.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdsjax import cameras
from sdsjax.diffusion import NoiseSchedule, prompts, velocity_to_noise
from sdsjax.models.loading import companions, hub
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.unets import lora
from sdsjax.models.vision.dpt import DPT
from sdsjax.priors.monocular import monocular
from sdsjax.types import Adapter, NoisePrediction, Prior, PriorSource

# from so many pixels a side the encoder's blocks are computed again in the pullback: at
# 512 that keeps 0.6 GB an image instead of 4.9; the toybox's few are not worth a third
# more operations
REMAT_FROM = 256


class PromptStates(NamedTuple):
    """cond [6 n d]: a row for each of prompts.FRONT..ANY; uncond, negative [n d]."""

    cond: jax.Array
    uncond: jax.Array
    negative: jax.Array


class AdapterWeights(NamedTuple):
    """The second network's own: UNet parameters and prompt states cond [6 n d]."""

    unet: dict
    cond: jax.Array


class FrozenWeights(NamedTuple):
    """What enters the jitted step as an argument: parameters and prompt states.

    adapter: None where the second network is the prior's own UNet; depth, normals: of
    the monocular estimate, None where there is none.
    """

    unet: dict
    vae: dict
    states: PromptStates
    adapter: AdapterWeights | None = None
    depth: dict | None = None
    normals: dict | None = None


class AdapterNetwork(NamedTuple):
    """The static half of the second network: UNet, kind of prediction, LoRA's rank."""

    unet: nn.Module
    prediction_type: str
    rank: int


def encode_prompts(
    text_encoder: hub.Network, tokenizer, prompt_table: list[str], negative: str
) -> PromptStates:
    """Text states of every view's prompt, of no prompt and of the negative one."""
    ids = jnp.asarray(tokenizer([*prompt_table, "", negative]))
    encode = jax.jit(lambda p, i: text_encoder.module.apply({"params": p}, i))
    states = encode(text_encoder.params, ids)
    return PromptStates(states[:-2], states[-2], states[-1])


def which_view(view) -> jax.Array:
    """The row of `PromptStates.cond` for a View, or for None: prompts.ANY."""
    if view is None or view.camera is None:
        return jnp.asarray(prompts.ANY, jnp.int32)
    matrix = view.camera.world_to_camera
    seen = prompts.view_index(*cameras.camera_angles(view.camera))
    return jnp.where(jnp.any(matrix != 0), seen, prompts.ANY)


def lora_adapter(
    network: AdapterNetwork,
    weights: AdapterWeights,
    schedule: NoiseSchedule,
    view_prompts: bool,
) -> Adapter:
    """psi is a `lora.Lora`; noise predicts eps for the view's prompt and camera.

    The parameters beneath are not traced into psi, and nothing is computed or
    allocated before `init` and `noise` are called.
    """

    def init(key):
        return lora.init(key, weights.unet, network.rank)

    def noise(psi, z_t, t, view):
        row = which_view(view) if view_prompts else prompts.ANY
        camera = None if view is None else view.camera
        matrix = jnp.zeros((4, 4)) if camera is None else camera.world_to_camera
        out = lora.adapted_apply(
            network.unet,
            weights.unet,
            psi,
            z_t[None],
            jnp.broadcast_to(t, (1,)),
            weights.cond[row][None],
            class_embedding=lora.camera_embedding(psi, matrix[None]),
        )[0].astype(z_t.dtype)
        if network.prediction_type == "v_prediction":
            out = velocity_to_noise(schedule, z_t, out, t)
        return out

    return Adapter(init, noise)


def perp_neg_noise(predict, states: PromptStates, z_t, t, view, branches):
    """The branches, `cond` with Perp-Neg folded in: text states interpolated between
    the two sides that are seen, the other sides as negatives. Four prompts in one batch
    instead of two, and a fifth for the negative one. The null camera has no sides."""
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


def bind(
    weights: FrozenWeights,
    *,
    unet,
    vae,
    schedule: NoiseSchedule,
    prediction_type: str,
    scaling_factor: float,
    view_prompts: bool,
    adapter: AdapterNetwork,
    depth: DPT | None = None,
    normals: DPT | None = None,
    perp_neg: bool = False,
) -> Prior:
    """The Prior of bound parameters; `unet` and `vae` are the (static) modules."""
    weights = jax.lax.stop_gradient(weights)
    second = weights.adapter or AdapterWeights(weights.unet, weights.states.cond)

    def predict(z_t, t, states):
        count = states.shape[0]
        out = unet.apply(
            {"params": weights.unet},
            jnp.broadcast_to(z_t, (count, *z_t.shape)),
            jnp.broadcast_to(t, (count,)),
            states,
        ).astype(z_t.dtype)
        if prediction_type == "v_prediction":
            out = velocity_to_noise(schedule, z_t, out, t)
        return out

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        posed = view is not None and view.camera is not None and view_prompts
        if perp_neg and posed and "cond" in branches:
            return perp_neg_noise(predict, weights.states, z_t, t, view, branches)
        row = which_view(view) if view_prompts else prompts.ANY
        rows = {
            "cond": weights.states.cond[row],
            "uncond": weights.states.uncond,
            "negative": weights.states.negative,
        }
        out = predict(z_t, t, jnp.stack([rows[branch] for branch in branches]))
        return NoisePrediction(**dict(zip(branches, out)))

    def encode(x):
        mean, _ = vae.apply({"params": weights.vae}, x[None], method="encode")
        return (scaling_factor * mean[0]).astype(x.dtype)

    def decode(z):
        x = vae.apply(
            {"params": weights.vae}, z[None] / scaling_factor, method="decode"
        )
        return x[0].astype(z.dtype)

    return Prior(
        schedule=schedule,
        noise=noise,
        encode=encode,
        decode=decode,
        monocular=None
        if depth is None
        else monocular(depth, weights.depth, normals, weights.normals),
        adapter=lora_adapter(adapter, second, schedule, view_prompts),
    )


def load_adapter(
    folder: str, table: list[str], networks: hub.StableDiffusion, *, rank: int, dtype
) -> tuple[AdapterNetwork, AdapterWeights]:
    """The second network of `folder`, its text states for the prompts of `table`.

    Raises the loader's errors, and ValueError where its latents or its noise levels
    are not those of the prior: both see the same z_t.
    """
    parts = ("unet", "text_encoder", "tokenizer", "scheduler")
    root = hub.resolve(folder, folders=parts)
    unet = hub.load_component(root, "unet", dtype=dtype)
    text = hub.load_component(root, "text_encoder", dtype=dtype)
    schedule, prediction_type = hub.read_schedule(root / "scheduler")
    own = networks.unet.config
    for what, found, expected in (
        ("in_channels", unet.config.in_channels, own.in_channels),
        ("out_channels", unet.config.out_channels, own.out_channels),
        ("cross_attention_dim", unet.config.context, text.config.hidden),
    ):
        if found != expected:
            raise ValueError(
                f"adapter_folder {folder}: its UNet has {what} = {found}; expected "
                f"{expected}, as the prior and its own text encoder have"
            )
    alphas = networks.schedule.alphas
    if alphas.shape != schedule.alphas.shape or not np.allclose(
        alphas, schedule.alphas, rtol=1e-4
    ):
        raise ValueError(
            f"adapter_folder {folder}: its noise schedule is not the prior's; choose a "
            "network trained on the same one"
        )
    tokenizer = Tokenizer.from_folder(root / "tokenizer", text.config.positions)
    cond = encode_prompts(text, tokenizer, table, "").cond
    network = AdapterNetwork(unet.module, prediction_type, rank)
    return network, AdapterWeights(unet.params, cond)


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
) -> PriorSource:
    """Reads a Stable Diffusion folder (or repository) and encodes the prompt.

    `variant`: "fp16" for files so named. `image_size`: side in pixels of the images
    that are encoded (default: the
    network's own); a multiple of the VAE's factor. `adapter_folder`: where the UNet
    beneath VSD's LoRA is read from (default: the prior's own is shared).
    `depth_folder`: a DPT, for the prior's monocular estimate (default: none).
    `normals_folder`: a second DPT, for its normals (default: drawn from disparity).
    `perp_neg`: fold Perp-Neg (arXiv 2304.04968) into `cond`, for twice the UNet's work.
    Raises the loader's one-line errors and ValueError for an image size or an adapter
    that does not fit, or for normals without a depth.
    """
    if normals_folder and not depth_folder:
        raise ValueError(
            f"prior.normals_folder = {normals_folder!r} needs prior.depth_folder as "
            "well (on the toybox: toybox-dpt): a monocular estimate has both"
        )
    networks = hub.load_stable_diffusion(
        folder, revision=revision, variant=variant, dtype=dtype
    )
    vae_config = networks.vae.module.config
    factor = vae_config.factor
    size = image_size or networks.unet.module.config.sample_size * factor
    if size % factor:
        raise ValueError(
            f"prior.image_size = {size} must be a multiple of {factor}, the pixels a "
            f"latent of {folder}"
        )
    if view_prompts:
        endings = prompts.view_endings(view_words)
        prompt = networks.tokenizer.shorten(prompt, endings)
    table = prompts.view_prompts(prompt, view_words)
    states = encode_prompts(
        networks.text_encoder, networks.tokenizer, table, negative_prompt
    )
    weights = FrozenWeights(networks.unet.params, networks.vae.params, states)
    adapter = AdapterNetwork(networks.unet.module, networks.prediction_type, lora_rank)
    if adapter_folder not in ("", folder):
        adapter, second = load_adapter(
            adapter_folder, table, networks, rank=lora_rank, dtype=dtype
        )
        weights = weights._replace(adapter=second)
    companion: dict[str, Any] = {}
    for name, where in (("depth", depth_folder), ("normals", normals_folder)):
        if where:
            module, params, _ = companions.load_companion(where, name, dtype=dtype)
            companion[name] = module
            weights = weights._replace(**{name: params})

    # a partial, not a closure: it would keep the text encoder alive with `networks`
    bound = partial(
        bind,
        unet=networks.unet.module,
        vae=networks.vae.module.clone(remat=size >= REMAT_FROM),
        schedule=networks.schedule,
        prediction_type=networks.prediction_type,
        scaling_factor=vae_config.scaling_factor,
        view_prompts=view_prompts,
        adapter=adapter,
        perp_neg=perp_neg,
        **companion,
    )
    return PriorSource(weights, bound, (size, size, 3))
