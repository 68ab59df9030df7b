"""A multi-view diffusion model as a prior, which is told the cameras.

It sees a group of views of one object at once (MVDream, arXiv 2308.16512). Shapes, with
g views a group, g > 1: z_t [g h w c], one scalar t, view.camera and view.rendering with
a leading axis g; with g = 1 an ordinary z_t [h w c] and view. x [h w 3] in [-1, 1]; z =
scaling factor times the posterior mean; encode and decode take one view or map over a
leading axis. The prompt has no view words: the camera says the side. A camera whose
world_to_camera is all zeros, or no view at all, is the null camera. Every branch is
told the cameras, as its authors do: what guidance amplifies is the text.

The adapter is VSD's second network: LoRA on this UNet, whose camera embedding is added
beside the network's own (models/unets/lora.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.cameras import camera_numbers, plucker_rays, resize_camera
from sdsjax.diffusion import NoiseSchedule, velocity_to_noise
from sdsjax.models.unets import lora
from sdsjax.models.unets.multiview import CAMERA_NUMBERS, RAY_CHANNELS
from sdsjax.models.vision.dpt import DPT
from sdsjax.priors.monocular import bound_estimate, check_folders, with_networks
from sdsjax.priors.prompt_states import encode_tokens
from sdsjax.priors.read_networks import load_multiview_networks, remat_of
from sdsjax.types import Adapter, NoisePrediction, Prior, PriorSource


class PromptStates(NamedTuple):
    """Text states [n d] of the prompt, of no prompt and of the negative one."""

    cond: jax.Array
    uncond: jax.Array
    negative: jax.Array


class FrozenWeights(NamedTuple):
    """What enters the jitted step as an argument: parameters and prompt states.

    depth, normals: parameters of the monocular estimate, None where there is none.
    """

    unet: dict
    vae: dict
    states: PromptStates
    depth: dict | None = None
    normals: dict | None = None


class Network(NamedTuple):
    """The static half: the UNet, what it predicts, and how it is used.

    group: how many views it sees together; rank: of VSD's LoRA; depth, normals: of the
    monocular estimate, which takes one view.
    """

    unet: Any
    prediction_type: str
    schedule: NoiseSchedule
    group: int
    rank: int
    depth: DPT | None = None
    normals: DPT | None = None


def encode_prompts(text_encoder, tokenizer, prompt: str, negative: str) -> PromptStates:
    """The text states of a prompt, of the empty one and of the negative one."""
    ids = jnp.asarray(tokenizer([prompt, "", negative]))
    states = encode_tokens(text_encoder.module, text_encoder.params, ids)
    return PromptStates(*states)


def conditions(view, group: int, side: tuple[int, int], with_rays: bool):
    """Returns (camera [g 16], rays [g h w 6] or None) of a sample's view.

    side: height and width of z; rays are those through the middles of the latents.
    """
    if view is None or view.camera is None:
        rays = jnp.zeros((group, *side, RAY_CHANNELS)) if with_rays else None
        return jnp.zeros((group, CAMERA_NUMBERS)), rays
    cameras = view.camera
    if group == 1:
        cameras = jax.tree.map(lambda leaf: leaf[None], cameras)
    height, width = side

    def rays_of(camera):
        return plucker_rays(resize_camera(camera, width, height))

    rays = jax.vmap(rays_of)(cameras) if with_rays else None
    return jax.vmap(camera_numbers)(cameras), rays


def _predict(network: Network, apply, z_t, t, states, view):
    """Noise predictions [k g h w c] of a sample for k prompts' states [k n d]."""
    group, count = network.group, states.shape[0]
    z = z_t if group > 1 else z_t[None]
    camera, rays = conditions(view, group, z.shape[1:3], network.unet.config.rays)

    def each(x):
        return jnp.broadcast_to(x, (count, *x.shape))

    out = apply(
        each(z),
        jnp.broadcast_to(t, (count,)),
        states,
        each(camera.astype(z.dtype)),
        None if rays is None else each(rays.astype(z.dtype)),
    ).astype(z_t.dtype)
    if network.prediction_type == "v_prediction":
        out = velocity_to_noise(network.schedule, z, out, t)
    return out if group > 1 else out[:, 0]


def lora_adapter(network: Network, weights: FrozenWeights) -> Adapter:
    """Makes VSD's second network of LoRA factors on the UNet beneath.

    psi is a `lora.Lora`; noise predicts eps for the prompt and the view's cameras.
    """

    def init(key):
        return lora.init(key, weights.unet, network.rank)

    def noise(psi, z_t, t, view):
        group = network.group
        if view is None or view.camera is None:
            matrices = jnp.zeros((group, 4, 4))
        else:
            matrices = view.camera.world_to_camera.reshape(group, 4, 4)
        apply = partial(
            lora.adapted_apply,
            network.unet,
            weights.unet,
            psi,
            class_embedding=lora.camera_embedding(psi, matrices)[None],
        )
        return _predict(network, apply, z_t, t, weights.states.cond[None], view)[0]

    return Adapter(init, noise)


def bind(weights: FrozenWeights, *, network: Network, vae) -> Prior:
    """The Prior of bound parameters; `network` and `vae` are static."""
    weights = jax.lax.stop_gradient(weights)

    def apply(*inputs):
        return network.unet.apply({"params": weights.unet}, *inputs)

    def noise(z_t, t, view=None, branches=("cond", "uncond")):
        states = jnp.stack([getattr(weights.states, branch) for branch in branches])
        out = _predict(network, apply, z_t, t, states, view)
        return NoisePrediction(**dict(zip(branches, out)))

    def encode(x):
        many = x if x.ndim == 4 else x[None]
        mean, _ = vae.apply({"params": weights.vae}, many, method="encode")
        z = vae.config.to_latents(mean).astype(x.dtype)
        return z if x.ndim == 4 else z[0]

    def decode(z):
        many = vae.config.from_latents(z if z.ndim == 4 else z[None])
        x = vae.apply({"params": weights.vae}, many, method="decode").astype(z.dtype)
        return x if z.ndim == 4 else x[0]

    return Prior(
        schedule=network.schedule,
        noise=noise,
        encode=encode,
        decode=decode,
        monocular=bound_estimate(network, weights),
        adapter=lora_adapter(network, weights),
        group=network.group,
    )


def load(
    folder: str,
    prompt: str,
    negative_prompt: str = "",
    *,
    dtype=jnp.float32,
    image_size: int | None = None,
    group: int = 4,
    lora_rank: int = 4,
    depth_folder: str = "",
    normals_folder: str = "",
    remat: str = "auto",
    sharding=None,
    **files,
) -> PriorSource:
    """Reads a multi-view network and encodes the prompt.

    folder: or a repository, or a single file; files: what else is said of it
    (`read_networks.load_multiview_networks`). group: how many views it sees together; 1
    takes views one by one. image_size: side in pixels of the images that are encoded
    (default: the network's own). depth_folder, normals_folder: a DPT each for the
    monocular estimate of a view (default: none).
    remat: what gradients keep of the encoder and of VSD's second network
    (`read_networks.remat_of`). sharding: where parameters go (models/loading/hub).
    Raises the loader's one-line errors and ValueError for an image size that does not
    fit or for normals without a depth.
    """
    check_folders(depth_folder, normals_folder)
    if group < 1:
        raise ValueError(f"prior.group = {group} must be at least 1")
    networks = load_multiview_networks(folder, dtype=dtype, sharding=sharding, **files)
    vae_config = networks.vae.module.config
    factor = vae_config.factor
    size = image_size or networks.unet.module.config.unet.sample_size * factor
    if size % factor:
        raise ValueError(
            f"prior.image_size = {size} must be a multiple of {factor}, the pixels a "
            f"latent of {folder}"
        )
    states = encode_prompts(
        networks.text_encoder, networks.tokenizer, prompt, negative_prompt
    )
    weights = FrozenWeights(networks.unet.params, networks.vae.params, states)
    network = Network(
        networks.unet.module.clone(remat=remat_of(remat)),
        networks.prediction_type,
        networks.schedule,
        group,
        lora_rank,
    )
    folders = {"depth": depth_folder, "normals": normals_folder}
    network, weights = with_networks(network, weights, folders, dtype, sharding)
    # a partial, not a closure: it would keep the text encoder alive with `networks`
    bound = partial(
        bind,
        network=network,
        vae=networks.vae.module.clone(remat=remat_of(remat, size)),
    )
    return PriorSource(jax.block_until_ready(weights), bound, (size, size, 3))
