"""Target and source in one view, under one noise: what every editing estimator asks."""

from __future__ import annotations

from typing import NamedTuple

import jax

from sdsjax.diffusion import NoiseSchedule, add_noise
from sdsjax.estimators.common import draw_noise, term_norms
from sdsjax.math import norm


class Pair(NamedTuple):
    """One view of target and source: moved = z - z', and e - e', z's shape."""

    moved: jax.Array
    difference: jax.Array
    aux: dict[str, jax.Array]


def check_source(name: str):
    """Makes the `init` of an estimator that edits: there is no state.

    It raises ValueError, in one line that has `name`, for a prior without a source.
    """

    def init(prior, key, z_spec) -> tuple:
        del key, z_spec
        if prior.source is None:
            raise ValueError(
                f"{name}: this prior has no source, the asset and the prompt that are "
                "edited: use --config=edit, or give edit.path and edit.source_prompt"
            )
        return ()

    return init


def compare(schedule: NoiseSchedule, guided, prior, key, z, t, view) -> Pair:
    """Predicts the noise of target and source; guided: (z_t, t, e_y, e_0) -> e_s."""
    eps, z_t = draw_noise(schedule, key, z, t)
    e = prior.noise(z_t, t, view, branches=("cond", "uncond"))
    z_source = jax.lax.stop_gradient(prior.source.latent(view).astype(z.dtype))
    source_t = add_noise(schedule, z_source, eps, t)
    f = prior.source.noise(source_t, t, view, branches=("cond", "uncond"))
    target = guided(z_t, t, e.cond, e.uncond)
    difference = target - guided(source_t, t, f.cond, f.uncond)
    moved = z - z_source
    aux = {**term_norms(e.cond, e.uncond), "moved_norm": norm(moved)}
    return Pair(moved, difference, aux)
