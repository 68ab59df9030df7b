"""A cloud of anisotropic Gaussians: `representation` (parameters,
drawing, regularisers), `initialization` (where they begin) and `density_control` (where
they are born, split, moved and die).
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
