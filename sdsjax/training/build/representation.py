"""From a config to its representation, with the regularisers that `losses` weighs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.representations import REPRESENTATIONS, gaussians, image, radiance_field
from sdsjax.representations.gaussians import initialization
from sdsjax.training.build.factories import arguments
from sdsjax.training.build.optimizer import updates
from sdsjax.training.build.supervision import DEPTH
from sdsjax.training.config import Config, ConfigError
from sdsjax.training.optimizers import exponential_decay
from sdsjax.types import PriorSource, Representation

# What `losses` may weigh, by representation.
LOSSES = {
    "gaussians": (*gaussians.REGULARIZERS, DEPTH),
    "image": tuple(image.REGULARIZERS),
    "nerf": (*radiance_field.REGULARIZERS, DEPTH),
}
# Of given points, in world units: what views of the unit ball still show as an object.
FARTHEST, SMALLEST = 1.5, 0.05
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


def background_of(text: str) -> str | tuple[float, ...]:
    """Reads a background: "random" stays, "white", "black", "r,g,b" become a colour.

    Raises ConfigError for anything else.
    """
    if text == "random":
        return text
    if text in BACKGROUNDS:
        return BACKGROUNDS[text]
    try:
        color = tuple(float(part) for part in text.strip("() ").split(","))
    except ValueError:
        color = ()
    if len(color) != 3 or not all(0.0 <= c <= 1.0 for c in color):
        raise ConfigError(
            f"background {text!r}: choose random, white, black or r,g,b, each in [0, 1]"
        )
    return color


def pixel_shape(config: Config, source: PriorSource) -> tuple[int, ...]:
    """Returns the shape of an `image` representation.

    The resolution's, or in latent space that of what the prior encodes to.
    """
    shape = (config.resolution, config.resolution, 3)
    if config.representation.get("space") != "latent":
        return shape
    x = jnp.zeros(source.image_shape or shape, jnp.float32)
    return jax.eval_shape(lambda p, x: source.bind(p).encode(x), source.params, x).shape


def build_representation(config: Config, shape: tuple[int, ...]) -> Representation:
    """Builds the representation of a config.

    shape: that of an `image`, see `pixel_shape`.
    """
    name = config.representation.name
    own = {name: w for name, w in config.losses.items() if name != DEPTH}
    supplied: dict[str, Any] = {"losses": own}
    given = arguments(config.representation)
    if name == "image":
        supplied["shape"] = shape
    else:
        supplied["background"] = background_of(config.background)
    if name == "gaussians":
        given |= _begun_from_file(given)
        given |= _noise_of_rate(config, given)
        if given["control"] in ("3dgs", "stabledreamer"):
            supplied["control_end"] = updates(config)
    return REPRESENTATIONS[name](**given, **supplied)


def _begun_from_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the init and init_count of Gaussians that begin from a PLY file's points.

    Raises ConfigError for more points than `representation.count`.
    """
    if not str(given["init"]).lower().endswith(".ply"):
        return {}
    from sdsjax.representations.gaussians.given_points import read_points

    points, count = read_points(given["init"]), given["count"]
    if len(points) > count:
        raise ConfigError(
            f"{given['init']} holds {len(points)} points, more than "
            f"representation.count = {count}: raise it"
        )
    points = _placed(given, points)
    return {"init": points, "init_count": len(points), "init_fit": False}


def _placed(given: Mapping[str, Any], points: np.ndarray) -> np.ndarray:
    """Returns points where the cameras look, fitted if asked for, with a word about it.

    Raises ConfigError for a cloud that views of the unit ball would not show.
    """
    centre, extent = initialization.extent_of_points(points[:, :3])
    off, radius = float(np.linalg.norm(centre)), given["init_radius"]
    if given["init_fit"]:
        warnings.warn(
            f"{given['init']}: {len(points)} points around {centre.round(3).tolist()} "
            f"with radius {extent:.3g} are moved to the origin and scaled by "
            f"{radius / extent:.3g}",
            stacklevel=2,
        )
        return initialization.fitted_points(points, radius)
    if off + extent > FARTHEST or extent < SMALLEST:
        raise ConfigError(
            f"{given['init']}: its points lie around {centre.round(3).tolist()} with "
            f"radius {extent:.3g}, and views show the unit ball around the origin: "
            "pass --config.representation.init_fit=true to move and scale them"
        )
    return points


def _noise_of_rate(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """MCMC's noise follows the learning rate of the means (arXiv 2404.09591)."""
    if given["control"] != "mcmc":
        return {}
    factor = 5e5 if given["control_noise"] is None else given["control_noise"]
    rate = config.optimizer.lr.get("means", 0.0)
    decay = config.optimizer.lr_final_factor
    return {"control_noise": exponential_decay(factor * rate, decay, updates(config))}
