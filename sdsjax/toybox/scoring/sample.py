"""Pictures from captions: DDIM sampling of a Stable Diffusion folder, guided.

Shapes: x [n h w 3] in [-1, 1]. Deterministic from the key (DDIM, eta 0, arXiv
2010.02502); e_s = e_0 + s (e_y - e_0).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import ddim_step, guide, velocity_to_noise
from sdsjax.models.loading.hub import StableDiffusion

BATCH = 50


def ddim_times(steps: int, total: int = 1000) -> np.ndarray:
    """The timesteps of DDIM, `[steps + 1]` int32.

    Evenly from total - 1 down to 0, then -1, which is the end.
    """
    times = np.round(np.linspace(total - 1, 0, steps)).astype(np.int32)
    return np.append(times, -1).astype(np.int32)


def sample(
    networks: StableDiffusion,
    texts: Sequence[str],
    key: jax.Array,
    *,
    guidance_scale: float,
    steps: int,
) -> np.ndarray:
    """One picture a caption, [n h w 3] in [-1, 1], clipped."""
    unet, vae = networks.unet, networks.vae
    config = unet.config
    states = _states(networks, texts)
    nothing = _states(networks, [""])
    times = jnp.asarray(ddim_times(steps, networks.schedule.num_steps))

    @jax.jit
    def draw(params, key, states, nothing):
        count = states.shape[0]
        side = config.sample_size
        z = jax.random.normal(key, (count, side, side, config.in_channels))
        both = jnp.concatenate([states, jnp.broadcast_to(nothing, states.shape)])

        def step(z, pair):
            t, after = pair
            t_all = jnp.full(2 * count, t)
            out: Any = unet.module.apply(
                {"params": params["unet"]}, jnp.concatenate([z, z]), t_all, both
            )
            cond, uncond = jnp.split(out, 2)
            e = guide(cond, uncond, guidance_scale)
            if networks.prediction_type == "v_prediction":
                e = velocity_to_noise(networks.schedule, z, e, t)
            return ddim_step(networks.schedule, z, e, t, after), None

        z, _ = jax.lax.scan(step, z, (times[:-1], times[1:]))
        decode: Any = partial(
            vae.module.apply, {"params": params["vae"]}, method="decode"
        )
        return jnp.clip(decode(vae.config.from_latents(z)), -1.0, 1.0)

    params = {"unet": unet.params, "vae": vae.params}
    pictures = []
    for start in range(0, len(texts), BATCH):
        part = states[start : start + BATCH]
        padded = jnp.pad(part, ((0, BATCH - len(part)), (0, 0), (0, 0)), mode="edge")
        out = draw(params, jax.random.fold_in(key, start), padded, nothing)
        pictures.append(np.asarray(out)[: len(part)])
    return np.concatenate(pictures)


def _states(networks: StableDiffusion, texts: Sequence[str]) -> jax.Array:
    encoder = networks.text_encoder
    ids = jnp.asarray(networks.tokenizer(list(texts)))
    states: Any = encoder.module.apply({"params": encoder.params}, ids)
    return states
