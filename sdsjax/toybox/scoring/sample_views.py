"""Sets of views from captions: DDIM sampling of a multi-view prior, guided.

Shapes: x [n g h w 3] in [-1, 1], g views a set, from the cameras of orbits [n g 3]
(azimuth, elevation in degrees, distance). Deterministic from the key (DDIM, eta 0,
arXiv 2010.02502); e_s = e_0 + s (e_y - e_0), both told the cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sdsjax.diffusion import ddim_step, guide, velocity_to_noise
from sdsjax.models.loading.hub import StableDiffusion
from sdsjax.toybox.scoring.sample import ddim_times
from sdsjax.toybox.training.view_sets import VIEWS, view_conditions
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.toybox.world.views import draw_orbit, spread_azimuths

CHUNK = 8  # sets drawn in one call


def sample_views(
    networks: StableDiffusion,
    texts: Sequence[str],
    orbits,
    key: jax.Array,
    *,
    guidance_scale: float,
    steps: int,
) -> np.ndarray:
    """A set of views a caption, [n g h w 3] in [-1, 1], clipped; orbits [n g 3]."""
    unet, vae, text = networks.unet, networks.vae, networks.text_encoder
    config = unet.config.unet
    times = jnp.asarray(ddim_times(steps, networks.schedule.num_steps))
    side, channels = config.sample_size, config.in_channels

    @jax.jit
    def draw(params, key, ids, nothing, orbit):
        z = jax.random.normal(key, (*orbit.shape[:2], side, side, channels))
        encode: Any = text.module.apply
        states = encode({"params": params["text_encoder"]}, ids)
        empty = encode({"params": params["text_encoder"]}, nothing)
        both = jnp.concatenate([states, jnp.broadcast_to(empty, states.shape)])
        seen = jnp.ones(len(orbit), bool)
        camera, rays = view_conditions(orbit, seen, side)
        camera, rays = (jnp.concatenate([a, a]) for a in (camera, rays))

        def step(z, pair):
            t, after = pair
            out: Any = unet.module.apply(
                {"params": params["unet"]},
                jnp.concatenate([z, z]),
                jnp.full(len(both), t),
                both,
                camera,
                rays if unet.config.rays else None,
            )
            cond, uncond = jnp.split(out, 2)
            e = guide(cond, uncond, guidance_scale)
            if networks.prediction_type == "v_prediction":
                e = velocity_to_noise(networks.schedule, z, e, t)
            return ddim_step(networks.schedule, z, e, t, after), None

        z, _ = jax.lax.scan(step, z, (times[:-1], times[1:]))
        z = vae.config.from_latents(z.reshape(-1, *z.shape[2:]))
        x: Any = vae.module.apply({"params": params["vae"]}, z, method="decode")
        return jnp.clip(x.reshape(*orbit.shape[:2], *x.shape[1:]), -1.0, 1.0)

    params = {name: getattr(networks, name).params for name in ("unet", "vae")}
    params["text_encoder"] = text.params
    ids, nothing = networks.tokenizer(list(texts)), networks.tokenizer([""])
    orbits = jnp.asarray(orbits)
    drawn = [
        draw(params, jax.random.fold_in(key, i), ids[i:j], nothing, orbits[i:j])
        for i, j in ((i, i + CHUNK) for i in range(0, len(texts), CHUNK))
    ]
    return np.concatenate([np.asarray(x) for x in drawn])


def draw_orbits(key: jax.Array, count: int) -> np.ndarray:
    """Draws cameras of `count` sets as training does: [count VIEWS 3]."""
    azimuth, elevation, distance = jax.vmap(draw_orbit)(jax.random.split(key, count))
    turned = spread_azimuths(azimuth, VIEWS)
    rest = (jnp.repeat(a[:, None], VIEWS, axis=1) for a in (elevation, distance))
    return np.asarray(jnp.stack([turned, *rest], axis=-1))


def view_sheet(
    path,
    networks: StableDiffusion,
    texts: Sequence[str],
    *,
    guidance_scale: float = 3.0,
    steps: int = 40,
    seed: int = 0,
) -> None:
    """Writes a picture of samples beside the truth, a row a caption.

    A row shows a set of samples and, to its right, the true renders of the same cameras
    (on a grey of their own: samples choose theirs).
    """
    key, key_orbits = jax.random.split(jax.random.key(seed))
    orbits = draw_orbits(key_orbits, len(texts))
    drawn = sample_views(
        networks, texts, orbits, key, guidance_scale=guidance_scale, steps=steps
    )
    rows = []
    for text, views, orbit in zip(texts, drawn, orbits, strict=True):
        true = render_specs([parse_caption(text)[0]] * VIEWS, orbit)
        rows.append(np.concatenate([*(0.5 + 0.5 * views), *true], axis=1))
    sheet = np.clip(np.concatenate(rows), 0.0, 1.0)
    Image.fromarray(np.round(255 * sheet).astype(np.uint8)).save(path)
