"""Gaussians of a few rows, and a control rule's edit of them, for hand calculation.

All in numpy, whose arithmetic compiles nothing; an edit is one program."""

from functools import cache

import jax
import numpy as np

from sdsjax.representations.gaussians import GaussianParams
from sdsjax.representations.gaussians.density_control import CONTROLS
from sdsjax.representations.gaussians.density_control.statistics import (
    Counts,
    DensityStatistics,
)
from sdsjax.types import Rendering

KEY = jax.random.key(0)
NOW = np.int32(0)  # with every = 1 each step is due
OFTEN = {"every": 1, "start": 0, "stop": None}
# settings that are numbers to calculate with: arguments of the program
NUMBERS = ("threshold", "clone_scale", "prune", "prune_scale", "growth")


def logit(opacity):
    opacity = np.asarray(opacity, np.float32)
    return np.log(opacity / (1 - opacity))


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.float64(logits)))


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
    return jax.tree.map(np.float32, params)


def seen(gradients, views=2, hidden=()):
    """aux of a step whose views each gave these screen gradients [n]."""
    gradients = np.asarray(gradients, np.float32)
    radii = np.ones((views, len(gradients), 2), np.float32)
    for view, row in hidden:
        radii[view, row] = -1
    empty = np.zeros((views, 1, 1), np.float32)
    drawn = Rendering(empty, empty, empty, empty, {"radii": radii})
    return {"probe": gradients, "renderings": drawn}


def no_counts():
    return Counts(*(np.int32(0) for _ in Counts._fields))


def nothing_seen(n):
    """The statistics of n rows before the first view."""
    zeros = np.zeros(n, np.float32)
    return DensityStatistics(zeros, zeros, no_counts())


@cache
def edit_of(rule, settings, names):
    """Returns a rule's edit, compiled once for equal settings and numbers of rows. Its
    first argument holds the settings of these names."""

    @jax.jit
    def edit(numbers, *state):
        given = dict(zip(names, numbers, strict=True))
        return CONTROLS[rule](**dict(settings), **given).edit(*state)

    return edit


def edited(rule, settings, *state):
    """One edit, as numpy arrays."""
    numbers = {name: settings[name] for name in NUMBERS if name in settings}
    fixed = tuple((k, v) for k, v in settings.items() if k not in numbers)
    edit = edit_of(rule, fixed, tuple(numbers))
    return jax.device_get(edit(tuple(numbers.values()), KEY, *state))


def adapted(params, alive, gradients, rule="3dgs", step=NOW, hidden=(), **settings):
    """One edit of a rule that densifies by screen gradients [n], seen by two views."""
    scales = {"clone_scale": 0.1, "prune_scale": np.inf}
    settings = {**OFTEN, "reset_every": 0, **scales, **settings}
    alive, aux = np.array(alive, bool), seen(gradients, 2, hidden)
    tally = nothing_seen(len(alive))
    return edited(rule, settings, step, params, alive, tally, aux)


def relocated(params, alive, step=NOW, **settings):
    """One edit of "mcmc", by default without noise or growth. Fewer than 60 rows have
    dead ones behind them, which nothing moves to: one program serves all."""
    settings = {**OFTEN, "noise": 0.0, "growth": 0.0, **settings}
    n, alive = len(alive), np.array(alive, bool)
    rows = np.arange(max(n, 60))
    params = jax.tree.map(lambda a: a[np.minimum(rows, n - 1)], params)
    alive = alive[np.minimum(rows, n - 1)] & (rows < n)
    got, after, counts, edit = edited(
        "mcmc", settings, step, params, alive, no_counts(), {}
    )
    if n < 60:
        assert settings["growth"] == 0
        assert not after[n:].any()
        assert not edit.reset[n:].any()
        assert (edit.source == rows)[n:].all()
    cut = lambda tree: jax.tree.map(lambda a: a[:n] if a.ndim else a, tree)  # noqa: E731
    return cut(got), after[:n], counts, cut(edit)
