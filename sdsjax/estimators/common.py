"""What every estimator shares: its noise, and the way from a direction to a gradient.

The noise is drawn the same way from equal keys, so that estimators can be compared
sample by sample. A `direction` is (prior, key, state, z, t, view) -> (d, aux) for ONE
view: d the unweighted direction in noise space, z's shape (SDS: e_s - eps); aux a dict
of scalars or z-shaped arrays. `from_direction` multiplies by w(t), for the L2 forms by
w(t) sigma_t / alpha_t, since z - zhat = (sigma_t / alpha_t) d.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from sdsjax.diffusion import (
    NoiseSchedule,
    Weighting,
    add_noise,
    alpha_sigma,
    guide_rescaled,
    weight_function,
)
from sdsjax.math import norm
from sdsjax.types import Estimate, Estimator, keep_state

Direction = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def no_state(prior, key, z_spec) -> tuple:
    """Returns the empty state: the `init` of an estimator that learns nothing."""
    del prior, key, z_spec
    return ()


def check_time(schedule: NoiseSchedule, t: Any) -> None:
    """Raises ValueError for a known t outside the schedule (a traced one passes)."""
    if isinstance(t, jax.core.Tracer):
        return
    if not 0 <= int(t) < schedule.num_steps:
        raise ValueError(
            f"t = {int(t)} is outside the schedule: choose 0..{schedule.num_steps - 1}"
        )


def draw_noise(schedule: NoiseSchedule, key: jax.Array, z: jax.Array, t: jax.Array):
    """Draws eps from the first half of `key` and returns (eps, z_t).

    Both have z's shape and dtype.
    """
    check_time(schedule, t)
    key_noise, _ = jax.random.split(key)
    eps = jax.random.normal(key_noise, z.shape, z.dtype)
    return eps, add_noise(schedule, z, eps, t)


def key_rest(key: jax.Array) -> jax.Array:
    """Returns the half of `key` that `draw_noise` leaves to the estimator."""
    return jax.random.split(key)[1]


def term_norms(cond: jax.Array, uncond: jax.Array) -> dict[str, jax.Array]:
    """Returns aux of a prediction with both branches: |e_y| and |h|, h = e_y - e_0."""
    return {"cond_norm": norm(cond), "h_norm": norm(cond - uncond)}


def guidance(
    schedule: NoiseSchedule, guidance_scale: float, guidance_rescale: float
) -> Callable[..., jax.Array]:
    """Returns the guidance of an estimator, (z_t, t, e_y, e_0) -> e_s of z_t's shape.

    guidance_rescale: phi in 0..1, how far the spread of zhat is brought back to that of
    the conditional one (diffusion/guidance.py); 0: not at all. Raises ValueError
    outside.
    """
    if not 0 <= guidance_rescale <= 1:
        raise ValueError(
            f"guidance_rescale = {guidance_rescale} must be in 0..1 (0: guidance as "
            "it is)"
        )
    return partial(
        guide_rescaled,
        schedule,
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
    )


def from_direction(
    schedule: NoiseSchedule,
    direction: Direction,
    weighting: Weighting,
    *,
    residual: bool = False,
    init: Callable[..., Any] = no_state,
    learn: Callable[..., Any] = keep_state,
) -> Estimator:
    """Makes the estimator w(t) d or, with `residual`, w(t) (z - zhat).

    z - zhat = sigma/alpha d. aux: the direction's, and `direction_norm`, the norm of
    what w(t) multiplies. Raises ValueError for an unknown weighting, at once.
    """
    weight = weight_function(schedule, weighting)

    def estimate(prior, key, state, z, t, view) -> Estimate:
        check_time(schedule, t)
        d, aux = direction(prior, key, state, z, t, view)
        if residual:
            alpha, sigma = alpha_sigma(schedule, t, z.dtype)
            d = sigma / alpha * d
        grad = weight(t).astype(z.dtype) * d
        return Estimate(grad, {**aux, "direction_norm": norm(d)})

    return Estimator(init, estimate, learn)
