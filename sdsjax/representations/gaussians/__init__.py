"""A cloud of anisotropic Gaussians as a representation.

`representation` has the parameters, the rendering and the regularisers, made from the
checked `settings`; `initialization` has the points that they begin at, `given_points`
those of a PLY file, and `density_control` the rules by which they are born, split,
moved and die.
"""

from sdsjax.representations.gaussians.representation import (
    REGULARIZERS,
    GaussianParams,
    Gaussians,
    GaussianState,
    as_gaussians,
    gaussians,
)

__all__ = [
    "REGULARIZERS",
    "GaussianParams",
    "GaussianState",
    "Gaussians",
    "as_gaussians",
    "gaussians",
]
