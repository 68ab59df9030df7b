"""Priors: diffusion models as pure functions, parameters and prompt bound.

Each makes a `sdsjax.types.Prior`. `gaussian_mixture` and `empirical` are exact;
`stable_diffusion`, `stable_diffusion3`, `multiview` and `deepfloyd` are networks read
from folders; `read_networks` reads them, `prompt_states` has the table of a prompt's
text states, `second_network` VSD's, `monocular` adds depth or normals. A prior may
import models and the ground, never an estimator or a representation.
"""

from sdsjax.priors.empirical import empirical
from sdsjax.priors.gaussian_mixture import gaussian_mixture

__all__ = ["empirical", "gaussian_mixture"]
