"""Things that can be optimised and drawn: Gaussians (`gaussians/`) and
radiance fields (`radiance_field/`) in space, pictures (`image`) in the plane.
REPRESENTATIONS[name](**hyperparameters) -> sdsjax.types.Representation. They import
render and the ground; training builds them by name.
"""

from sdsjax.representations import gaussians, image, radiance_field

REPRESENTATIONS = {
    "gaussians": gaussians.gaussians,
    "image": image.image,
    "nerf": radiance_field.nerf,
}

__all__ = ["REPRESENTATIONS", "gaussians", "image", "radiance_field"]
