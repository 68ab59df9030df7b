"""What predicts the noise of a set of views: toybox-sd by words, a multi-view prior.

A predictor of a case is a function (z_t [noises v h w c], t) -> eps_hat.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.models.loading import hub
from sdsjax.toybox.training.fit import load_ema
from sdsjax.toybox.training.multiview_recipe import (
    MultiViewRecipe,
    initial_params,
    network_config,
)
from sdsjax.toybox.training.view_sets import view_conditions
from sdsjax.toybox.world.captions import caption, parse_caption
from sdsjax.toybox.world.views import view_index

Predict = Callable[..., jax.Array]


class Case(NamedTuple):
    """A caption's set of views: its text, the latents z [v h w c] of its true renders,
    orbit [v 3]."""

    text: str
    z: np.ndarray
    orbit: np.ndarray


def view_words(networks: hub.StableDiffusion):
    """A case -> predict of toybox-sd, told each view by its words."""
    text, unet = networks.text_encoder, networks.unet

    @jax.jit
    def run(params, states, z_t, t):
        count = z_t.shape[0]
        flat = z_t.reshape(-1, *z_t.shape[2:])
        told = jnp.tile(states, (count, 1, 1))
        out: Any = unet.module.apply(
            {"params": params}, flat, jnp.full(len(flat), t), told
        )
        return out.reshape(z_t.shape)

    def of(case: Case):
        spec = parse_caption(case.text)[0]
        azimuth, elevation, _ = jnp.asarray(case.orbit).T
        seen = view_index(azimuth, elevation)
        ids = networks.tokenizer([caption(spec, int(view)) for view in seen])
        states: Any = text.module.apply({"params": text.params}, ids)
        return lambda z_t, t: run(unet.params, states, z_t, t)

    return of


def cameras(networks: hub.StableDiffusion, group: int, turn: float = 0.0):
    """A case -> predict of a multi-view prior, told the cameras, `group` views in a
    call; turn: degrees by which the azimuths it is told are wrong."""
    text, unet = networks.text_encoder, networks.unet

    @jax.jit
    def run(params, ids, orbit, z_t, t):
        states: Any = text.module.apply({"params": params["text_encoder"]}, ids)
        calls = z_t.size // (group * z_t[0, 0].size)
        z = z_t.reshape(calls, group, *z_t.shape[2:])
        told = jnp.tile(orbit, (z_t.shape[0], 1)).reshape(calls, group, 3)
        camera, rays = view_conditions(told, jnp.ones(calls, bool), z.shape[2])
        out: Any = unet.module.apply(
            {"params": params["unet"]}, z, jnp.full(calls, t),
            jnp.tile(states, (calls, 1, 1)), camera, rays if unet.config.rays else None,
        )  # fmt: skip
        return out.reshape(z_t.shape)

    params = {"unet": unet.params, "text_encoder": text.params}

    def of(case: Case):
        ids = networks.tokenizer([case.text])
        orbit = case.orbit + np.array([turn, 0.0, 0.0])
        return lambda z_t, t: run(params, ids, orbit, z_t, t)

    return of


def load_multiview(where: str) -> hub.StableDiffusion:
    """A folder's networks, or those of a training's folder (its moving average)."""
    checkpoint = Path(where) / "checkpoint.safetensors"
    if not checkpoint.exists():
        return hub.load_multiview(where)
    recipe = MultiViewRecipe()
    start = hub.load_stable_diffusion(recipe.start)
    params = load_ema(checkpoint, initial_params(start, recipe))
    config = network_config(start, recipe)
    unet = hub.Network(hub.MultiViewUNet(config), params["unet"], config)
    text = start.text_encoder._replace(params=params["text_encoder"])
    return start._replace(unet=unet, text_encoder=text)
