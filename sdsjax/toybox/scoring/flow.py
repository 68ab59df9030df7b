"""A small Stable Diffusion 3 drawn from, and its error on fresh renders.

Shapes: x [n h w 3] in [-1, 1]. Euler's method along v = dz_s / ds, s from 1 to 0, with
v_s = v_0 + scale (v_y - v_0) (arXiv 2403.03206). Deterministic from the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.diffusion import NoiseSchedule, guide
from sdsjax.models.loading import hub
from sdsjax.models.loading.scheduler import read_flow_schedule
from sdsjax.models.loading.sd3 import folder as sd3
from sdsjax.models.mmdit import Text
from sdsjax.toybox.scoring.measure import captioned_renders, mean_by_time
from sdsjax.toybox.scoring.sample import BATCH, ddim_times
from sdsjax.toybox.training import pool as pools


class FlowNetworks(NamedTuple):
    """The networks of a folder without T5, and its schedule."""

    transformer: hub.Network
    vae: hub.Network
    encoders: sd3.TextEncoders
    schedule: NoiseSchedule

    def told(self, texts: Sequence[str]) -> Text:
        """What the transformer is told of texts, [n ...]; zeros for T5's states."""
        states, pooled, encoders = [], [], self.encoders
        for network, tokenizer in encoders.clips:
            ids = jnp.asarray(tokenizer(list(texts)))
            found: Any = network.module.apply({"params": network.params}, ids)
            states.append(found[0])
            pooled.append(found[1])
        told = jnp.concatenate(states, axis=-1)
        more = self.transformer.config.context - told.shape[-1]
        told = jnp.pad(told, ((0, 0), (0, encoders.t5_tokens), (0, more)))
        return Text(told, jnp.concatenate(pooled, axis=-1))


def load_flow(folder) -> FlowNetworks:
    """Reads a local or built-in folder; raises LoaderError as the prior does."""
    root = hub.resolve(folder, folders=sd3.folders_of(False))
    sd3.check_parts(root, False)
    transformer, vae = (hub.load_component(root, n) for n in ("transformer", "vae"))
    encoders = sd3.load_text(root, False)
    return FlowNetworks(
        transformer, vae, encoders, read_flow_schedule(root / "scheduler")[0]
    )


def sample(
    networks: FlowNetworks,
    texts: Sequence[str],
    key: jax.Array,
    *,
    guidance_scale: float,
    steps: int,
) -> np.ndarray:
    """One picture a caption, [n h w 3] in [-1, 1], clipped."""
    transformer, vae, schedule = networks.transformer, networks.vae, networks.schedule
    side, channels = transformer.config.sample_size, transformer.config.in_channels
    times = ddim_times(steps, schedule.num_steps)
    levels = np.append(np.asarray(schedule.sigmas)[times[:-1]], np.float32(0))

    @jax.jit
    def draw(params, key, told, nothing):
        count = told.pooled.shape[0]
        both = jax.tree.map(
            lambda y, n: jnp.concatenate([y, jnp.broadcast_to(n, y.shape)]),
            told,
            nothing,
        )

        def step(z, each):
            t, now, after = each
            time = jnp.broadcast_to(schedule.network_time(t), 2 * count)
            v: Any = transformer.module.apply(
                {"params": params["transformer"]}, jnp.concatenate([z, z]), time, both
            )
            cond, uncond = jnp.split(v, 2)
            return z + (after - now) * guide(cond, uncond, guidance_scale), None

        z = jax.random.normal(key, (count, side, side, channels))
        z, _ = jax.lax.scan(step, z, (times[:-1], levels[:-1], levels[1:]))
        decode: Any = partial(
            vae.module.apply, {"params": params["vae"]}, method="decode"
        )
        return jnp.clip(decode(vae.config.from_latents(z)), -1.0, 1.0)

    params = {"transformer": transformer.params, "vae": vae.params}
    nothing, pictures = networks.told([""]), []
    for start in range(0, len(texts), BATCH):
        part = [*texts[start : start + BATCH]]
        told = networks.told(part + part[-1:] * (BATCH - len(part)))
        out = draw(params, jax.random.fold_in(key, start), told, nothing)
        pictures.append(np.asarray(out)[: len(part)])
    return np.concatenate(pictures)


def loss_by_level(
    networks: FlowNetworks, pool: pools.Pool, *, count: int = 400, seed: int = 2
) -> dict[int, float]:
    """Mean (v_hat - (eps - z))^2 at ten of 1000 times, on fresh captioned renders."""
    x, texts = captioned_renders(pool, count, seed)
    told = networks.told(texts)
    transformer, vae, schedule = networks.transformer, networks.vae, networks.schedule

    @jax.jit
    def error(params, x, told, t, key):
        encoded: Any = vae.module.apply({"params": params[1]}, x, method="encode")
        z = vae.config.to_latents(encoded[0])
        eps = jax.random.normal(key, z.shape)
        z_s = schedule.alphas[t] * z + schedule.sigmas[t] * eps
        time = jnp.broadcast_to(schedule.network_time(t), z.shape[0])
        v: Any = transformer.module.apply({"params": params[0]}, z_s, time, told)
        return jnp.mean((v - (eps - z)) ** 2)

    params = transformer.params, vae.params

    def of_some(i, t, key):
        return error(params, x[i], jax.tree.map(lambda leaf: leaf[i], told), t, key)

    return mean_by_time(of_some, count)
