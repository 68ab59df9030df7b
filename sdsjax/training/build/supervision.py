"""From a config to what is asked of renderings besides the estimator.

The penalties themselves are in training/supervision. `losses.depth` weighs the depth
loss; `reference` has given pictures and their weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.files.reference_images import (
    BadReference,
    Orbit,
    read_reference,
    reference_of,
)
from sdsjax.toybox.world.captions import CaptionError
from sdsjax.training.config import Config, ConfigError
from sdsjax.training.supervision import (
    Penalty,
    Reference,
    attach,
    combine_penalties,
    depth_penalty,
    fit_size,
    reference_penalty,
)
from sdsjax.types import PriorSource, Representation

# What `losses` may weigh besides the regularisers of a representation with depth.
DEPTH = "depth"
TOYBOX = "toybox"


def read_given_views(config: Config) -> Reference:
    """Reads the pictures of `reference.path` at the last phase's resolution.

    "toybox" is the prompt's true picture. Raises ConfigError.
    """
    said, size = config.reference, config.resolution
    orbit = Orbit(*(said[name] for name in Orbit._fields))
    try:
        if said.path != TOYBOX:
            return read_reference(
                said.path, size, orbit, background=said.background, fit=said.fit
            )
        # Imported here: the renderer of the toybox takes a second to import.
        from sdsjax.toybox.world.references import true_rgba

        return reference_of(*true_rgba(config.prompt, [orbit], size))
    except (BadReference, CaptionError) as error:
        raise ConfigError(f"reference.path: {error}") from error


def with_disparity(source: PriorSource, given: Reference) -> Reference:
    """Adds the prior's monocular estimate of every given picture, on white."""

    @jax.jit
    def one(params, rgb, mask):
        # bound in here: closed over, the network's parameters would become constants
        monocular = source.bind(params).monocular
        assert monocular is not None
        x = 2.0 * (rgb + (1.0 - mask[..., None])) - 1.0
        disparity, _ = monocular(fit_size(x, (source.image_shape or x.shape)[:2]))
        return fit_size(disparity.astype(jnp.float32), mask.shape)

    pairs = zip(given.rgb, given.mask)
    disparity = [one(source.params, *pair) for pair in pairs]
    return given._replace(disparity=jnp.stack(disparity))


def build_supervision(
    config: Config, source: PriorSource, representation: Representation
) -> tuple[PriorSource, Penalty | None]:
    """Attaches the given pictures to the prior, and returns all penalties as one.

    The same prior and None where nothing is asked; nothing of the step is compiled.

    Raises ConfigError for pictures or cameras that cannot be used, and for a depth loss
    with a prior that has no monocular estimate.
    """
    said, penalties = config.reference, []
    prior = source.bind(source.params)
    weight = config.losses.get(DEPTH, 0.0)
    for key, asked in (
        ("losses.depth", weight),
        ("reference.weight_depth", said.path and said.weight_depth),
    ):
        if asked and prior.monocular is None:
            raise ConfigError(
                f"{key} needs a prior with a monocular estimate, which "
                f"{config.prior.name!r} has not here: pass "
                f"--config.prior.depth_folder=toybox-dpt or Intel/dpt-large (of "
                f"stable_diffusion), or set {key} to 0"
            )
    if weight:
        penalties.append(depth_penalty(weight, config.steps))
    if said.path:
        if config.representation.name == "image":
            raise ConfigError(
                "reference.path needs a representation with cameras: choose "
                "representation.name gaussians or nerf"
            )
        given = read_given_views(config)
        if said.weight_depth:
            given = with_disparity(source, given)
        source = attach(source, given)
        weights = {name: said[f"weight_{name}"] for name in ("rgb", "mask", "depth")}
        penalties.append(reference_penalty(representation, weights, said.until_step))
    return source, combine_penalties(*penalties)
