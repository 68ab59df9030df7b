"""Priors: a diffusion model as pure functions, its parameters and its prompt
bound (`sdsjax.types.Prior`). `gaussian_mixture` and `empirical` are exact;
`stable_diffusion` and `deepfloyd` are networks read from folders, `monocular` adds
depth or normals. A prior may import models and the ground, never an estimator or a
representation.
"""

from sdsjax.priors.empirical import empirical
from sdsjax.priors.gaussian_mixture import gaussian_mixture

__all__ = ["empirical", "gaussian_mixture"]
