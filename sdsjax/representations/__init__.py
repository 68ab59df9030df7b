"""Things that can be optimised and drawn: Gaussians and radiance fields in space,
pictures in the plane.

REPRESENTATIONS[name](**hyperparameters) -> sdsjax.types.Representation.
"""

from sdsjax.representations import gaussians, image, nerf

REPRESENTATIONS = {
    "gaussians": gaussians.gaussians,
    "image": image.image,
    "nerf": nerf.nerf,
}

__all__ = ["REPRESENTATIONS", "gaussians", "image", "nerf"]
