"""Distillation without a renderer: z itself is theta, a whole run in one compiled scan.

For experiments on exact priors, where thousands of short runs say more than one long
one: vmap it over keys, starts or pictures. theta = z, J the identity; a step draws t
and noise for `batch` copies of z, lets the estimator learn, and moves z with Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdsjax.types import Array, Estimator, Linear, Prior, PyTree


class Trace(NamedTuple):
    """What a run was after each of c equal parts of it; the first entry is the start.

    z [c ...]; state: the estimator's, a leading axis [c].
    """

    z: Array
    state: PyTree


IDENTITY = Linear(
    pullback=lambda g: jnp.sum(g, 0), pushforward=lambda d: jnp.asarray(d)[None]
)


def distil(
    prior: Prior,
    estimator: Estimator,
    sampler: Callable,
    z: Array,
    key: Array,
    *,
    steps: int,
    rate: float,
    batch: int = 1,
    parts: int = 1,
    final_factor: float = 0.1,
) -> Trace:
    """Distils one z with one estimator; may be traced.

    rate: Adam's, falling geometrically to final_factor of it; sampler as in
    sdsjax.diffusion.timesteps; image gradients (sds_plus) are added, x being z here.
    Raises ValueError unless steps is a multiple of parts.
    """
    if steps % parts:
        raise ValueError(f"distil: {steps} steps do not divide into {parts} parts")
    adam = optax.adam(
        optax.exponential_decay(rate, steps, final_factor), b1=0.9, b2=0.99
    )
    key_init, key_steps = jax.random.split(key)
    state = estimator.init(prior, key_init, jax.eval_shape(lambda: z))

    def step(carried, index):
        z, opt_state, state = carried
        keys = jax.random.split(jax.random.fold_in(key_steps, index), 3)
        t = sampler(keys[0], index, steps, (batch,))
        zs = jnp.broadcast_to(z, (batch, *z.shape))
        estimates = jax.vmap(
            lambda k, z, t: estimator.estimate(prior, k, state, z, t, None)
        )(jax.random.split(keys[1], batch), zs, t)
        state = estimator.learn(prior, keys[2], state, zs, t, None, estimates, IDENTITY)
        grad = jnp.mean(estimates.grad, 0)
        if estimates.image_grad is not None:
            grad = grad + jnp.mean(estimates.image_grad, 0)
        update, opt_state = adam.update(grad, opt_state)
        return (optax.apply_updates(z, update), opt_state, state), None

    def part(carried, number):
        indices = number * (steps // parts) + jnp.arange(steps // parts)
        carried, _ = jax.lax.scan(step, carried, indices)
        return carried, (carried[0], carried[2])

    start = (z, adam.init(z), state)
    _, kept = jax.lax.scan(part, start, jnp.arange(parts))
    first = (z, state)
    return Trace(*jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, kept))


def toybox_pictures(captions, *, views: int, size: int) -> np.ndarray:
    """True pictures x [captions views size size 3] in [-1, 1].

    From `views` azimuths at elevation 15, rendered at 4 times the size and averaged.
    """
    from sdsjax.toybox.world.captions import parse_caption
    from sdsjax.toybox.world.sheet import render_specs

    specs = [parse_caption(text)[0] for text in captions]
    orbits = [(360.0 * i / views, 15.0) for i in range(views)]
    repeated = [spec for spec in specs for _ in orbits]
    rgb = render_specs(repeated, orbits * len(specs), size=4 * size)
    rgb = rgb.reshape(len(specs), views, size, 4, size, 4, 3).mean((3, 5))
    return 2.0 * rgb - 1.0


def kept_by_caption(captions: int, views: int) -> np.ndarray:
    """Which of all pictures are each caption's own, [captions captions*views] bool."""
    return np.repeat(np.arange(captions)[:, None] == np.arange(captions), views, 1)


def nearest_psnr(z: Array, pictures: Array, cap: float = 60.0) -> Array:
    """The PSNR in dB of z, clipped, to the nearest of pictures [n ...] in [-1, 1]."""
    apart = jnp.clip(z, -1.0, 1.0)[None] - pictures
    error = jnp.min(jnp.mean(apart**2, axis=tuple(range(1, pictures.ndim))))
    return jnp.minimum(10.0 * jnp.log10(4.0 / jnp.maximum(error, 1e-12)), cap)
