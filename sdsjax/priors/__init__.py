"""Priors: diffusion models as pure functions, parameters and prompt bound.

Each makes a `sdsjax.types.Prior`. `gaussian_mixture` and `empirical` are exact;
`stable_diffusion` and `deepfloyd` are networks read from folders, whose prompts are in
`prompt_states`; `second_network` is VSD's, `monocular` adds depth or normals. A prior
may import models and the ground, never an estimator or a representation.
"""

from sdsjax.priors.empirical import empirical
from sdsjax.priors.gaussian_mixture import gaussian_mixture

__all__ = ["empirical", "gaussian_mixture"]
