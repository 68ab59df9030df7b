"""Things that can be optimised and drawn: Gaussians in space, pictures in the plane.

REPRESENTATIONS[name](**hyperparameters) -> sdsjax.types.Representation.
"""

from sdsjax.representations import gaussians, image

REPRESENTATIONS = {"gaussians": gaussians.gaussians, "image": image.image}

__all__ = ["REPRESENTATIONS", "gaussians", "image"]
