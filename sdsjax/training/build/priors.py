"""From a config to its prior: a literal dict of the kinds, and how each is loaded.

Colours rgb in [0, 1], images x in [-1, 1], angles in degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from sdsjax import priors
from sdsjax.diffusion import SCHEDULES
from sdsjax.diffusion.prompts import VIEW_WORDS
from sdsjax.training.config import Config, ConfigError
from sdsjax.types import PriorSource


def _folder_and_prompt(config: Config, sharding) -> dict[str, Any]:
    """Returns what the loaders of all networks that read a prompt are given."""
    prior = config.prior
    return {
        "folder": prior.folder,
        "prompt": config.prompt,
        "negative_prompt": config.negative_prompt,
        "revision": prior.revision,
        "variant": prior.variant,
        "dtype": jnp.dtype(prior.dtype),
        "view_prompts": prior.view_prompts,
        "view_words": VIEW_WORDS[prior.view_words],
        "image_size": prior.image_size,
        "sharding": sharding,
    }


def _of_files(prior: Config) -> dict[str, Any]:
    """Returns what is said of the files of Stable Diffusion's kind of network."""
    return {
        "tokenizer_folder": prior.tokenizer_folder,
        "prediction_type": prior.prediction_type,
        "loras": prior.loras,
    }


def _leave_out(prior: Config, *keys: str) -> None:
    """Raises ConfigError for what is said and a prior has not."""
    for key in keys:
        if prior[key]:
            raise ConfigError(
                f"prior.{key} = {prior[key]!r}: the prior {prior.name} does not take "
                "it, as stable_diffusion does; leave it out"
            )


def _no_gradient(prior: Config) -> None:
    """Raises ConfigError for a policy of gradients where there are no large ones."""
    if prior.remat != "auto":
        raise ConfigError(
            f"prior.remat = {prior.remat!r}: the prior {prior.name} does not take it, "
            "no gradient passes through large networks of it; leave it out"
        )


def _stable_diffusion(config: Config, sharding=None) -> PriorSource:
    """Loads a folder of Stable Diffusion, the embedded toybox-sd among them."""
    # Imported here: networks and tokenizers take a second to import.
    from sdsjax.priors import stable_diffusion

    prior = config.prior
    return stable_diffusion.load(
        **_folder_and_prompt(config, sharding),
        vae_folder=prior.vae_folder,
        **_of_files(prior),
        adapter_folder=prior.adapter_folder,
        lora_rank=prior.lora_rank,
        depth_folder=prior.depth_folder,
        normals_folder=prior.normals_folder,
        perp_neg=prior.perp_neg,
        remat=prior.remat,
    )


def _stable_diffusion3(config: Config, sharding=None) -> PriorSource:
    """Loads a folder of Stable Diffusion 3 or 3.5: flow matching on an MMDiT.

    Raises ConfigError for another network's folder as VSD's second, or another VAE.
    """
    from sdsjax.priors import stable_diffusion3

    prior = config.prior
    _leave_out(prior, "adapter_folder", "vae_folder", *_of_files(prior))
    return stable_diffusion3.load(
        **_folder_and_prompt(config, sharding),
        text_encoder_3=prior.text_encoder_3,
        lora_rank=prior.lora_rank,
        depth_folder=prior.depth_folder,
        normals_folder=prior.normals_folder,
        perp_neg=prior.perp_neg,
        remat=prior.remat,
    )


def _multiview(config: Config, sharding=None) -> PriorSource:
    """Loads a folder whose UNet sees several views and is told their cameras.

    Raises ConfigError for what only the prior stable_diffusion has.
    """
    from sdsjax.priors import multiview

    prior, given = config.prior, _folder_and_prompt(config, sharding)
    _leave_out(prior, "vae_folder", "adapter_folder", "perp_neg")
    del given["view_prompts"], given["view_words"]  # the camera says the side
    return multiview.load(
        **given,
        **_of_files(prior),
        group=prior.group,
        lora_rank=prior.lora_rank,
        depth_folder=prior.depth_folder,
        normals_folder=prior.normals_folder,
        remat=prior.remat,
    )


def _deepfloyd(config: Config, sharding=None) -> PriorSource:
    """Loads the first stage of DeepFloyd IF, which denoises pixels."""
    from sdsjax.priors import deepfloyd

    others = ("vae_folder", "adapter_folder", "depth_folder", "normals_folder")
    _leave_out(config.prior, *others, "perp_neg", *_of_files(config.prior))
    _no_gradient(config.prior)
    return deepfloyd.load(**_folder_and_prompt(config, sharding))


def _gaussian_mixture(config: Config, sharding=None) -> PriorSource:
    """Makes a mixture of k flat colours with isotropic variances, on images x."""
    del sharding  # no parameters of a network
    _leave_out(config.prior, "vae_folder", *_of_files(config.prior))
    _no_gradient(config.prior)
    prior, shape = config.prior, (config.resolution, config.resolution, 3)
    colors = 2.0 * np.asarray(prior.means, np.float32) - 1.0
    means = np.broadcast_to(colors[:, None, None, :], (len(colors), *shape))
    schedule = SCHEDULES[prior.schedule or "scaled_linear"]()
    params = (
        jnp.asarray(prior.weights),
        jnp.asarray(means),
        jnp.asarray(prior.variances),
    )

    def bind(params):
        weights, means, variances = params
        return priors.gaussian_mixture(
            schedule, weights, means, variances, prior.conditional
        )

    return PriorSource(params, bind, shape)


def _empirical(config: Config, sharding=None) -> PriorSource:
    """Makes the exact prior of the toybox's true renders."""
    from sdsjax.training.build.true_renders import true_renders

    del sharding  # the toybox's VAE, where there is one: 3 MB
    _leave_out(config.prior, *_of_files(config.prior))
    _no_gradient(config.prior)
    return true_renders(config)


# each: (config, sharding=None) -> PriorSource; sharding: see models/loading/hub
PRIORS: dict[str, Callable[..., PriorSource]] = {
    "stable_diffusion": _stable_diffusion,
    "stable_diffusion3": _stable_diffusion3,
    "deepfloyd": _deepfloyd,
    "multiview": _multiview,
    "gaussian_mixture": _gaussian_mixture,
    "empirical": _empirical,
}
