"""Priors: diffusion models as pure functions. `gaussian_mixture` and `empirical` are
exact; `stable_diffusion` is a network read from a Hugging Face folder."""

from sdsjax.priors.empirical import empirical
from sdsjax.priors.gaussian_mixture import gaussian_mixture

__all__ = ["empirical", "gaussian_mixture"]
