"""Delta Denoising Score, e(z_t; y, t) - e(z'_t; y', t) (arXiv 2304.07090, eq. 3)."""

from __future__ import annotations

from sdsjax.diffusion import NoiseSchedule, Weighting
from sdsjax.estimators.common import from_direction, guidance
from sdsjax.estimators.editing.pairs import check_source, compare
from sdsjax.types import Estimator


def dds(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    weighting: Weighting = "sigma2",
) -> Estimator:
    """Makes Delta Denoising Score (DDS), for editing.

    guidance_scale s: of both prompts; guidance_rescale: see `common.guidance`. aux:
    norms of e_y, h = e_y - e_0 and z - z'. Raises ValueError in `init` for a prior
    without a source.
    """
    guided = guidance(schedule, guidance_scale, guidance_rescale)

    def direction(prior, key, state, z, t, view):
        pair = compare(schedule, guided, prior, key, z, t, view)
        return pair.difference, pair.aux

    return from_direction(schedule, direction, weighting, init=check_source("dds"))
