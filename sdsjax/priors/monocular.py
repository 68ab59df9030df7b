"""Monocular estimates for a prior: disparity and normals of an image, by a frozen DPT.

x [h w 3] in [-1, 1] -> (disparity [h w], normals [h w 3]); network: models/vision/dpt.
Disparity is known up to scale and shift. Normals, in camera axes (x right, y down, z
forward) and turned to the camera, come of a second DPT where there is one. Otherwise
they are those of the surface that the disparity draws once stretched to depths
`near`..`far`; a wrong stretch tilts them, so they compare shapes, not angles.
Differentiable all the way: Stein's identity needs the gradient of exactly what
is computed, extremes included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sdsjax.models.loading import companions
from sdsjax.models.vision import dpt


def check_folders(depth_folder: str, normals_folder: str) -> None:
    """Raises ValueError for normals without a depth."""
    if normals_folder and not depth_folder:
        raise ValueError(
            f"prior.normals_folder = {normals_folder!r} needs prior.depth_folder as "
            "well (on the toybox: toybox-dpt): a monocular estimate has both"
        )


def with_networks(
    networks: Any, weights: Any, folders: dict[str, str], dtype, sharding=None
) -> tuple[Any, Any]:
    """Adds a prior's networks of the monocular estimate, where folders name them.

    networks, weights: NamedTuples with the fields `depth` and `normals`, for modules
    and for parameters; folders: those names -> folder, or ""; sharding: where
    parameters go. Raises LoaderError.
    """
    for name, folder in folders.items():
        if folder:
            module, params, _ = companions.load_companion(
                folder, name, dtype=dtype, sharding=sharding
            )
            networks = networks._replace(**{name: module})
            weights = weights._replace(**{name: params})
    return networks, weights


def bound_estimate(networks: Any, weights: Any) -> Callable | None:
    """Returns the estimate of a prior's `with_networks`, None without a depth."""
    if networks.depth is None:
        return None
    return monocular(networks.depth, weights.depth, networks.normals, weights.normals)


def monocular(
    network: dpt.DPT,
    params,
    normals_network: dpt.DPT | None = None,
    normals_params=None,
    *,
    fov: float = 40.0,
    near: float = 2.1,
    far: float = 4.1,
) -> Callable:
    """Makes the function x -> (disparity, normals), float32.

    Who reads one of the two pays for one. normals_network: a DPT of three outputs, and
    its parameters; fov: degrees, vertical, of the images' cameras; near, far: the
    depths, in world units, of their nearest and farthest points (the unit ball seen
    from 3.1).
    """
    params, normals_params = jax.lax.stop_gradient((params, normals_params))

    def estimate(x):
        wide = x[None].astype(jnp.float32)
        disparity = dpt.predict(network, params, wide)[0]
        if normals_network is not None:
            return disparity, dpt.predict(normals_network, normals_params, wide)[0]
        low, high = jnp.min(disparity), jnp.max(disparity)
        scale = (1.0 / near - 1.0 / far) / jnp.maximum(high - low, 1e-6)
        shift = 1.0 / far - scale * low
        focal = 0.5 * x.shape[0] / jnp.tan(0.5 * jnp.deg2rad(fov))
        normals = dpt.normals_from_disparity(
            disparity, jnp.stack([focal, focal]), scale=scale, shift=shift
        )
        return disparity, normals

    return estimate
