"""Classifier Score Distillation: e_y + a e_neg + b e_0 with a + b = -1.

a = 0 is the plain form h = e_y - e_0, a = -1 replaces e_0 by the negative prompt; the
authors go from the first to the second over 5 000 steps. a moves linearly from
`negative` to `negative_end` over `anneal_steps` training steps.
Source: Yu et al., Text-to-3D with Classifier Score Distillation (arXiv 2310.19415),
sec. 4.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.diffusion import NoiseSchedule, Weighting
from sdsjax.estimators.common import draw_noise, from_direction, term_norms
from sdsjax.types import Estimator


class CSDState(NamedTuple):
    """The state of CSD.

    step: int32 scalar, training steps done (it places a between its two ends).
    """

    step: jax.Array


def csd_direction(cond, uncond, negative, a) -> jax.Array:
    """Returns e_y + a e_neg + b e_0 with b = -1 - a, z's shape.

    negative: None stands for a = 0.
    """
    if negative is None:
        return cond - uncond
    return cond + a * negative - (1.0 + a) * uncond


def csd(
    schedule: NoiseSchedule,
    *,
    weighting: Weighting = "sigma2",
    negative: float = 0.0,
    negative_end: float = 0.0,
    anneal_steps: int = 5000,
) -> Estimator:
    """Makes Classifier Score Distillation (CSD).

    negative, negative_end: a at the first step and after `anneal_steps`, each in -1..0;
    both 0 asks for no negative branch. aux: norms of e_y and h, and a. Raises
    ValueError outside these ranges.
    """
    for name, a in (("negative", negative), ("negative_end", negative_end)):
        if not -1 <= a <= 0:
            raise ValueError(f"csd: {name} = {a} must be in -1..0 (0: plain e_y - e_0)")
    if anneal_steps < 1:
        raise ValueError(f"csd: anneal_steps = {anneal_steps} must be at least 1")
    plain = negative == negative_end == 0
    branches = ("cond", "uncond") if plain else ("cond", "uncond", "negative")

    def init(prior, key, z_spec) -> CSDState:
        del prior, key, z_spec
        return CSDState(jnp.zeros((), jnp.int32))

    def direction(prior, key, state, z, t, view):
        _, z_t = draw_noise(schedule, key, z, t)
        e = prior.noise(z_t, t, view, branches=branches)
        progress = jnp.minimum(state.step.astype(z.dtype) / anneal_steps, 1.0)
        a = negative + (negative_end - negative) * progress
        d = csd_direction(e.cond, e.uncond, e.negative, a)
        return d, {**term_norms(e.cond, e.uncond), "a": a}

    def learn(prior, key, state, zs, ts, views, estimates, linear) -> CSDState:
        del prior, key, zs, ts, views, estimates, linear
        return CSDState(state.step + 1)

    return from_direction(schedule, direction, weighting, init=init, learn=learn)
