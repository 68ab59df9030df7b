"""VSD's second network beside Stable Diffusion: LoRA on a frozen UNet.

The UNet is the prior's own, or that of a second folder with its own text states and its
own kind of prediction. A camera whose world_to_camera is all zeros is the null camera:
no view words and a blank camera embedding. Source: VSD arXiv 2305.16213.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule, prompts, velocity_to_noise
from sdsjax.models.loading import hub
from sdsjax.models.text_encoders.clip_tokenizer import Tokenizer
from sdsjax.models.unets import lora
from sdsjax.priors.prompt_states import encode_prompts, prompt_row
from sdsjax.types import Adapter


class AdapterWeights(NamedTuple):
    """The second network's own arrays: UNet parameters, prompt states cond [6 n d]."""

    unet: dict
    cond: jax.Array


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
            jnp.broadcast_to(t, (1,)),
            weights.cond[row][None],
            class_embedding=lora.camera_embedding(psi, matrix[None]),
        )[0].astype(z_t.dtype)
        if network.prediction_type == "v_prediction":
            out = velocity_to_noise(schedule, z_t, out, t)
        return out

    return Adapter(init, noise)


def load_adapter(
    folder: str,
    table: list[str],
    networks: hub.StableDiffusion,
    *,
    rank: int,
    dtype,
    sharding=None,
) -> tuple[AdapterNetwork, AdapterWeights]:
    """Reads the second network of `folder` and its text states for some prompts.

    Raises the loader's errors, and ValueError where its latents or its noise levels are
    not those of the prior: both see the same z_t.
    """
    parts = ("unet", "text_encoder", "tokenizer", "scheduler")
    root = hub.resolve(folder, folders=parts)
    unet, text = (
        hub.load_component(root, name, dtype=dtype, sharding=sharding)
        for name in ("unet", "text_encoder")
    )
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
    if alphas.shape != schedule.alphas.shape or not all(
        np.allclose(ours, theirs, rtol=1e-4)
        for ours, theirs in zip(networks.schedule, schedule)
    ):
        raise ValueError(
            f"adapter_folder {folder}: its noise schedule is not the prior's; choose a "
            "network trained on the same one"
        )
    tokenizer = Tokenizer.from_folder(root / "tokenizer", text.config.positions)
    cond = encode_prompts(text, tokenizer, table, "").cond
    network = AdapterNetwork(unet.module, prediction_type, rank)
    return network, AdapterWeights(unet.params, cond)
