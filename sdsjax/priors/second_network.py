"""VSD's second network beside Stable Diffusion: LoRA on a frozen UNet.

The UNet is the prior's own, or that of a second folder with its own text states and its
own kind of prediction. A camera whose world_to_camera is all zeros is the null camera:
no view words and a blank camera embedding. Source: VSD arXiv 2305.16213.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule, prompts, velocity_to_noise
from sdsjax.models.loading import hub
from sdsjax.models.loading.sdxl.folder import SDXL, load_sdxl
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.unets import lora
from sdsjax.priors.prompt_states import encode_prompts, prompt_row, row_of, stacked
from sdsjax.types import Adapter, PyTree


class AdapterWeights(NamedTuple):
    """The second network's own arrays: UNet parameters, prompt states cond [6 ...]."""

    unet: dict
    cond: PyTree


class AdapterNetwork(NamedTuple):
    """The static half of the second network: UNet, kind of prediction, LoRA's rank."""

    unet: nn.Module
    prediction_type: str
    rank: int


def lora_adapter(
    network: AdapterNetwork,
    weights: AdapterWeights,
    schedule: NoiseSchedule,
    view_prompts: bool,
) -> Adapter:
    """Makes the adapter whose psi is a `lora.Lora`.

    Its noise predicts eps for the view's prompt and camera. The parameters beneath are
    not traced into psi, and nothing is computed or allocated before `init` and `noise`
    are called.
    """

    def init(key):
        return lora.init(key, weights.unet, network.rank)

    def noise(psi, z_t, t, view):
        row = prompt_row(view) if view_prompts else prompts.ANY
        camera = None if view is None else view.camera
        matrix = jnp.zeros((4, 4)) if camera is None else camera.world_to_camera
        out = lora.adapted_apply(
            network.unet,
            weights.unet,
            psi,
            z_t[None],
            jnp.broadcast_to(schedule.network_time(t), (1,)),
            stacked([row_of(weights.cond, row)]),
            class_embedding=lora.camera_embedding(psi, matrix[None]),
        )[0].astype(z_t.dtype)
        if network.prediction_type == "v_prediction":
            out = velocity_to_noise(schedule, z_t, out, t)
        return out

    return Adapter(init, noise)


def load_adapter(
    folder: str,
    table: list[str],
    networks: hub.StableDiffusion | SDXL,
    *,
    rank: int,
    size: int,
    dtype,
    sharding=None,
) -> tuple[AdapterNetwork, AdapterWeights]:
    """Reads the second network of `folder` and its text states for some prompts.

    size: of the pictures, as in `encode_prompts`. Raises the loader's errors, and
    ValueError where its latents or its noise levels are not those of the prior: both
    see the same z_t.
    """
    second = _second_networks(folder, networks, dtype, sharding)
    check_alike(folder, second, networks)
    cond = encode_prompts(second, table, "", size).cond
    network = AdapterNetwork(second.unet.module, second.prediction_type, rank)
    return network, AdapterWeights(second.unet.params, cond)


def _second_networks(
    folder: str, networks: hub.StableDiffusion | SDXL, dtype, sharding
):
    """Reads a folder of the prior's kind; its VAE is the prior's."""
    xl = isinstance(networks, SDXL)
    parts = ("unet", "text_encoder", "tokenizer", "scheduler")
    root = hub.resolve(folder, folders=hub.FOLDERS if xl else parts)
    found, own = type(hub.read_config(root, "unet")), type(networks.unet.config)
    if found is not own:
        raise ValueError(
            f"adapter_folder {folder}: its UNet is {hub.OWNERS[found][0]}, the prior's "
            f"{hub.OWNERS[own][0]}; their latents differ: choose one of the same kind"
        )
    form = {"dtype": dtype, "sharding": sharding}
    if xl:
        return load_sdxl(root, vae=networks.vae, **form)
    unet, text = (
        hub.load_component(root, name, **form) for name in ("unet", "text_encoder")
    )
    if unet.config.context != text.config.hidden:
        raise ValueError(
            f"adapter_folder {folder}: its UNet has cross_attention_dim = "
            f"{unet.config.context}; expected {text.config.hidden}, as its own text "
            "encoder has"
        )
    tokenizer = Tokenizer.from_folder(root / "tokenizer", text.config.positions)
    how = hub.read_schedule(root / "scheduler")
    return hub.StableDiffusion(unet, networks.vae, text, tokenizer, *how)


def check_alike(folder: str, second, networks) -> None:
    """Raises ValueError where a second network cannot see the prior's z_t."""
    own, other = (
        found.unet.config.unet if isinstance(found, SDXL) else found.unet.config
        for found in (networks, second)
    )
    for what in ("in_channels", "out_channels"):
        found, expected = getattr(other, what), getattr(own, what)
        if found != expected:
            raise ValueError(
                f"adapter_folder {folder}: its UNet has {what} = {found}; expected "
                f"{expected}, as the prior has"
            )
    alphas, schedule = networks.schedule.alphas, second.schedule
    if alphas.shape != schedule.alphas.shape or not all(
        np.allclose(ours, theirs, rtol=1e-4)
        for ours, theirs in zip(networks.schedule, schedule)
    ):
        raise ValueError(
            f"adapter_folder {folder}: its noise schedule is not the prior's; choose a "
            "network trained on the same one"
        )
