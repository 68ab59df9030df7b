"""Editing: what the target prompt asks of an asset, less what the source prompt does.

z is the view's latent, z' that of the source asset in the same view (`Prior.source`),
e(.; y) and e(.; y') the guided predictions e_s of target and source prompt; both see
the same eps and t, so that an error that they share cancels.

    dds   d = e(z_t; y, t) - e(z'_t; y', t)
    pds   d = psi (z - z') + chi (e(z_t; y, t) - e(z'_t; y', t))

PDS matches stochastic latents u = (z_s - mu(z_t, e)) / v of both branches, s = t -
stride: mu = gamma zhat + delta z_t is the mean and v the deviation of DDPM's posterior.
The noises of z_t and z_s cancel, which leaves psi and chi. With stride 1 psi is 0 by
the identity gamma + delta alpha_t = alpha_s, so that PDS is then DDS, weighted by chi;
the pull towards the source comes of the published program's two steps (500 of 1000
times) with one step's beta.
Sources: Delta Denoising Score (arXiv 2304.07090), eq. 3; Posterior Distillation
Sampling (arXiv 2311.13831), eqs. 9-13.
"""

from sdsjax.estimators.editing.dds import dds
from sdsjax.estimators.editing.pds import pds

EDITING = ("dds", "pds")  # names of the estimators that need a prior with a source

__all__ = ["EDITING", "dds", "pds"]
