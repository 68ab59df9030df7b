"""Representations: things that are optimised and rendered, by name.

`gaussians/` and `radiance_field/` lie in space, pictures (`image`) in the plane;
`backgrounds` and `regularizers` are shared. REPRESENTATIONS[name](**hyperparameters) is
a sdsjax.types.Representation. They import render and the ground; training builds them
by name.
"""

from sdsjax.representations import gaussians, image, radiance_field

REPRESENTATIONS = {
    "gaussians": gaussians.gaussians,
    "image": image.image,
    "nerf": radiance_field.nerf,
}

__all__ = ["REPRESENTATIONS", "gaussians", "image", "radiance_field"]
