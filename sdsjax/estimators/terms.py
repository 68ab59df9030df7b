"""The terms of SDS, each alone: mode-seeking e_y, and mode-disengaging h = e_y - e_0.

e_s - eps = (s - 1) h + e_y - eps (Stable Score Distillation, arXiv 2312.09305, eq. 4).
Mode-seeking has three ways of reducing its variance; r = <e_y, eps> / |eps|^2 over all
of z (eq. 9). None takes a guidance scale.
Figs. 7, 9, 10, 15 and 20 show them alone; secs. 4.2 to 4.4 analyse them.
"""

from __future__ import annotations

import jax

from sdsjax.diffusion import NoiseSchedule, Weighting
from sdsjax.estimators.common import draw_noise, from_direction, term_norms
from sdsjax.math import inner, norm, safe_divide
from sdsjax.types import Estimator


def projection_ratio(cond: jax.Array, eps: jax.Array) -> jax.Array:
    """Returns r = <e_y, eps> / |eps|^2, a scalar (eq. 9); 0 for eps = 0."""
    return safe_divide(inner(cond, eps), inner(eps, eps))


def mode_seeking(
    schedule: NoiseSchedule, *, weighting: Weighting = "sigma2"
) -> Estimator:
    """Makes e_y: one network call, no reduction of the noise (sec. 4.3).

    aux: the norm of e_y.
    """

    def direction(prior, key, state, z, t, view):
        _, z_t = draw_noise(schedule, key, z, t)
        cond = prior.noise(z_t, t, view, branches=("cond",)).cond
        return cond, {"cond_norm": norm(cond)}

    return from_direction(schedule, direction, weighting)


def mode_seeking_sds(
    schedule: NoiseSchedule, *, weighting: Weighting = "sigma2"
) -> Estimator:
    """Makes e_y - eps, which is SDS at guidance scale 1 (sec. 4.4).

    aux: the norm of e_y.
    """

    def direction(prior, key, state, z, t, view):
        eps, z_t = draw_noise(schedule, key, z, t)
        cond = prior.noise(z_t, t, view, branches=("cond",)).cond
        return cond - eps, {"cond_norm": norm(cond)}

    return from_direction(schedule, direction, weighting)


def mode_seeking_adaptive(
    schedule: NoiseSchedule, *, weighting: Weighting = "sigma2"
) -> Estimator:
    """Makes e_y - r eps, SSD's adaptive reduction (sec. 4.4.2).

    It is biased by 1/d of the signal. aux: the norm of e_y and r.
    """

    def direction(prior, key, state, z, t, view):
        eps, z_t = draw_noise(schedule, key, z, t)
        cond = prior.noise(z_t, t, view, branches=("cond",)).cond
        r = projection_ratio(cond, eps)
        return cond - r * eps, {"cond_norm": norm(cond), "r": r}

    return from_direction(schedule, direction, weighting)


def mode_disengaging(
    schedule: NoiseSchedule, *, weighting: Weighting = "sigma2"
) -> Estimator:
    """Makes h = e_y - e_0 (sec. 4.2), Classifier Score Distillation's plain form.

    aux: the norms of e_y and h.
    """

    def direction(prior, key, state, z, t, view):
        _, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=("cond", "uncond"))
        return e.cond - e.uncond, term_norms(e.cond, e.uncond)

    return from_direction(schedule, direction, weighting)
