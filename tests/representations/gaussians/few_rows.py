"""Gaussians of a few rows, and a control rule's edit of them, for hand calculation."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.representations.gaussians import GaussianParams
from sdsjax.representations.gaussians.density_control import make_density_control
from sdsjax.representations.gaussians.density_control.statistics import (
    zero_counts,
    zero_statistics,
)
from sdsjax.types import Rendering

KEY = jax.random.key(0)
NOW = jnp.int32(0)  # with every = 1 each step is due
OFTEN = {"every": 1, "start": 0, "stop": None}


def logit(opacity):
    opacity = np.asarray(opacity, np.float32)
    return jnp.asarray(np.log(opacity / (1 - opacity)))


def params_of(opacities, scales=0.05):
    """Isotropic Gaussians at random places."""
    n, draw = len(opacities), np.random.default_rng(0).normal
    scales = np.broadcast_to(np.asarray(scales, np.float32), (n,))
    params = GaussianParams(
        means=draw(size=(n, 3)),
        log_scales=np.log(scales)[:, None] * np.ones((1, 3)),
        quats=draw(size=(n, 4)),
        opacity_logits=logit(opacities),
        sh=draw(size=(n, 1, 3)),
    )
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def seen(gradients, views=2, hidden=()):
    """aux of a step whose views each gave these screen gradients [n]."""
    gradients = jnp.asarray(gradients, jnp.float32)
    radii = np.ones((views, len(gradients), 2), np.float32)
    for view, row in hidden:
        radii[view, row] = -1
    empty = jnp.zeros((views, 1, 1))
    drawn = Rendering(empty, empty, empty, empty, {"radii": jnp.asarray(radii)})
    return {"probe": gradients, "renderings": drawn}


@cache
def edit_of(rule, settings):
    """Returns a rule's edit, compiled once for equal settings and numbers of rows."""
    return jax.jit(make_density_control(rule, dict(settings)).edit)


def adapted(params, alive, gradients, rule="3dgs", step=NOW, hidden=(), **settings):
    """One edit of a rule that densifies by screen gradients [n], seen by two views."""
    settings = {**OFTEN, "reset_every": 0, "clone_scale": 0.1, **settings}
    alive = jnp.asarray(alive, bool)
    return edit_of(rule, tuple(settings.items()))(
        KEY,
        step,
        params,
        alive,
        zero_statistics(len(alive)),
        seen(gradients, 2, hidden),
    )


def relocated(params, alive, step=NOW, **settings):
    """One edit of "mcmc", by default without noise or growth."""
    settings = {**OFTEN, "noise": 0.0, "growth": 0.0, **settings}
    alive = jnp.asarray(alive, bool)
    edit = edit_of("mcmc", tuple(settings.items()))
    return edit(KEY, step, params, alive, zero_counts(), {})
