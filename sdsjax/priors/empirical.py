"""An exact prior at image scale: the optimal denoiser of a finite set of pictures.

p(z) = sum_i w_i N(z; z_i, v I), so with total = alpha^2 v + sigma^2 the posterior is
p_i = softmax_i(log w_i - |z_t - alpha z_i|^2 / (2 total)), and the noise prediction is
e(z_t) = sigma (z_t - alpha sum_i p_i z_i) / total, for any t and without training (the
mixture of `gaussian_mixture` with one variance, which lets pictures be visited one at a
time). The prompt keeps the pictures of `conditional`.

In 3D a picture also has a direction d_i, from the object to the camera that took it,
and the prompt's weights follow the camera that asks: w_i ~ exp(kappa (<d_i, d> - 1)),
kappa = 1 / view_spread^2 (the von Mises-Fisher kernel, whose standard deviation is
view_spread where it is small). A spread of 45 degrees imitates view words, 0 keeps the
nearest picture alone: what of a blur is the prior's becomes a dial.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.cameras import Camera, camera_position
from sdsjax.diffusion import NoiseSchedule, alpha_sigma
from sdsjax.priors.gaussian_mixture import affine_adapter, check_conditional
from sdsjax.types import Array, NoisePrediction, Prior

Encode = Callable[[Array], Array]


def squared_distances(z_t, images, alpha, chunk: int = 256) -> jax.Array:
    """Returns |z_t - alpha x_i|^2 [n], by differences, `chunk` images at a time.

    The expanded square would lose all its digits at small sigma; chunks bound the
    memory.
    """
    return jax.lax.map(
        lambda image: jnp.sum((z_t - alpha * image.astype(z_t.dtype)) ** 2),
        images,
        batch_size=min(chunk, images.shape[0]),
    )


def view_log_weights(camera: Camera, directions: Array, view_spread: float) -> Array:
    """Returns the log weights [n] of pictures for a camera, up to a constant.

    directions [n 3]: unit vectors (world) from the object to where each picture was
    taken; view_spread: degrees, 0: -inf for all but the nearest picture.
    """
    position = camera_position(camera)
    cosines = directions @ (position / jnp.linalg.norm(position))
    if view_spread == 0:
        nearest = jnp.arange(directions.shape[0]) == jnp.argmax(cosines)
        return jnp.where(nearest, 0.0, -jnp.inf)
    return (cosines - 1.0) / math.radians(view_spread) ** 2


class _Pictures(NamedTuple):
    # what `empirical` is given, once it is checked; masks: [n] by branch
    images: Array
    masks: dict[str, Array]
    variance: float
    directions: Array | None
    view_spread: float
    picture_at: Callable[[Camera], Array] | None


def empirical(
    schedule: NoiseSchedule,
    images,
    conditional,
    *,
    negative=None,
    variance: float = 0.0,
    directions=None,
    view_spread: float = 0.0,
    picture_at: Callable[[Camera], Array] | None = None,
    encode: Encode = lambda x: x,
    decode: Encode = lambda z: z,
) -> Prior:
    """Makes the prior that is the optimal denoiser of pictures [n ...], given as z.

    Args:
        conditional, negative: boolean masks [n] of the pictures that the prompt and the
            negative prompt keep (negative None: all).
        variance: v, of every picture, in z's units squared.
        directions: [n 3] unit vectors (world) from the object to the camera of each
            picture; None: no prediction depends on the camera. Only `cond` does.
        view_spread: the kernel's width in degrees; 0: the nearest picture alone.
        picture_at: camera -> z, traceable: with `view_spread` 0 the prompt's picture
            from exactly that camera, instead of the nearest one.
        encode, decode: x -> z and back, if z is not the picture itself.

    A view without a camera, or with the null camera (a matrix of zeros), weighs all
    pictures of the prompt alike. Raises ValueError for masks or directions that do not
    fit and for negative widths.
    """
    images = jnp.asarray(images)
    count = images.shape[0]
    everything = jnp.ones(count, bool)
    masks = {
        "cond": check_conditional(conditional, count, "empirical"),
        "uncond": everything,
        "negative": everything,
    }
    if negative is not None:
        masks["negative"] = check_conditional(negative, count, "empirical")
    if directions is not None:
        directions = jnp.asarray(directions)
    _check(directions, count, variance, view_spread, picture_at)
    pictures = _Pictures(images, masks, variance, directions, view_spread, picture_at)
    return Prior(
        schedule=schedule,
        noise=partial(_noise, schedule, pictures),
        encode=encode,
        decode=decode,
        adapter=affine_adapter(schedule, images.shape[1:]),
    )


def _noise(
    schedule: NoiseSchedule,
    pictures: _Pictures,
    z_t,
    t,
    view=None,
    branches=("cond", "uncond"),
) -> NoisePrediction:
    alpha, sigma = alpha_sigma(schedule, t, z_t.dtype)
    total = alpha**2 * pictures.variance + sigma**2
    out: dict[str, Any] = {}
    for branch in branches:
        if branch == "cond" and pictures.picture_at is not None:
            if view is None or view.camera is None:
                raise ValueError("empirical: picture_at needs a view with a camera")
            mean = pictures.picture_at(view.camera).astype(z_t.dtype)
        else:
            logits = _log_weights(pictures, branch, view).astype(z_t.dtype)
            mean = _posterior_mean(pictures.images, z_t, alpha, total, logits)
        out[branch] = sigma * (z_t - alpha * mean) / total
    return NoisePrediction(**out)


def _log_weights(pictures: _Pictures, branch: str, view) -> Array:
    # log w_i [n] of a branch, up to a constant
    logits = jnp.where(pictures.masks[branch], 0.0, -jnp.inf)
    camera = None if view is None else view.camera
    if branch != "cond" or pictures.directions is None or camera is None:
        return logits
    # The nearest of the prompt's own pictures, not of all.
    toward = jnp.where(pictures.masks["cond"][:, None], pictures.directions, 0.0)
    seen = view_log_weights(camera, toward, pictures.view_spread)
    return logits + jnp.where(jnp.any(camera.world_to_camera != 0), seen, 0.0)


def _posterior_mean(images: Array, z_t, alpha, total, logits: Array) -> Array:
    logits = logits - squared_distances(z_t, images, alpha) / (2.0 * total)
    return jnp.tensordot(jax.nn.softmax(logits), images.astype(z_t.dtype), axes=1)


def _check(directions, count: int, variance, view_spread, picture_at) -> None:
    if directions is not None and directions.shape != (count, 3):
        raise ValueError(
            f"empirical: directions has shape {directions.shape}, expected ({count}, 3)"
        )
    if variance < 0 or view_spread < 0:
        raise ValueError(
            f"empirical: variance = {variance} and view_spread = {view_spread} must "
            "not be negative"
        )
    if picture_at is not None and view_spread:
        raise ValueError(
            f"empirical: picture_at is one view alone, view_spread = {view_spread} "
            "mixes several: give one of them"
        )
