"""How alike the gradients of two renderings are, by what their cameras share.

A rendering: the views that the prior takes as one sample, at azimuths a_1..a_g, one
elevation and one distance, before one background. M: its gradient in theta, the mean
over several noises. Of S independent pairs of renderings, A and B are gradients of the
first rendering with noises of their own, P that of a relative: the first rendering
changed in one thing, or the second with one thing of the first. tr Cov(A, B) is then
the variance of the views without that of the noise, and

    tr Cov(A, P) / tr Cov(A, B)

the correlation of the two renderings' noise-free gradients. For a relative that has
one thing of the first and all else anew it is Sobol's first-order index of that thing
(Saltelli et al., "Global Sensitivity Analysis", 2008, ch. 4): what drawing it in
perfect strata could take away. For one that is moved a little, a memory of a gradient
so far away used as a control variate leaves 1 - correlation^2 of the variance at best.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from sdsjax.cameras import camera_angles, camera_position, orbit_camera
from sdsjax.studies.run_states import Point
from sdsjax.studies.statistics import covariance_trace, jackknife, squared_mean
from sdsjax.training.forward_pass import make_forward
from sdsjax.training.gradient_variance import rendered_views
from sdsjax.training.groups import render_keys
from sdsjax.training.noises.samples import NoiseSamples
from sdsjax.training.pullback import floating
from sdsjax.training.train_step import make_directions


class Drawn(NamedTuple):
    """What a rendering is drawn from.

    azimuth [g], elevation [], distance []: degrees and world units; background: the key
    of its colour.
    """

    azimuth: jax.Array
    elevation: jax.Array
    distance: jax.Array
    background: jax.Array


# Towards the middle of what is drawn, so that a moved camera is one that a run draws.
MIDDLE = {"elevation": 17.5, "distance": 3.1}
MOVES = {
    "azimuth": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    "elevation": (2.0, 4.0, 8.0),
    "distance": (0.02, 0.05, 0.1),
}


def moved(first: Drawn, name: str, by: float) -> Drawn:
    """The rendering with one angle or the distance changed."""
    value = getattr(first, name)
    if name in MIDDLE:
        by = jnp.where(value > MIDDLE[name], -by, by)
    return first._replace(**{name: value + by})


def relatives(background: bool) -> dict[str, Callable]:
    """Names (first, second) -> a relative of the first; see the head of this file.

    background: whether backgrounds are drawn at all.
    """
    found: dict[str, Callable] = {
        f"{name} + {by:g}": lambda a, b, name=name, by=by: moved(a, name, by)
        for name, steps in MOVES.items()
        for by in steps
    }
    if background:
        found["background anew"] = lambda a, b: a._replace(background=b.background)
    shared = ["azimuth", "elevation", "distance"] + ["background"] * background
    for name in shared:
        found[f"same {name}"] = lambda a, b, name=name: b._replace(
            **{name: getattr(a, name)}
        )
    return found


def drawn_rendering(point: Point, key) -> Drawn:
    """One of the renderings that a step draws."""
    key_camera, key_which, background = jax.random.split(key, 3)
    group, cameras = point.built.group, point.built.phases[-1].cameras(key_camera)
    which = jax.random.randint(key_which, (), 0, cameras.focal.shape[0] // group)
    views = jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, which * group, group), cameras
    )
    azimuth, elevation = jax.vmap(camera_angles)(views)
    distance = jnp.linalg.norm(jax.vmap(camera_position)(views), axis=-1)
    return Drawn(azimuth, elevation[0], distance[0], background)


def cameras_of(drawn: Drawn, size: int, fov: float):
    """The cameras [g] of a rendering, of size x size pixels."""
    build = partial(orbit_camera, fov=fov, width=size, height=size)
    return jax.vmap(lambda a: build(a, drawn.elevation, drawn.distance))(drawn.azimuth)


def make_gradient(point: Point, noises: int) -> Callable:
    """Makes (state, params, drawn, key) -> the mean gradient in theta, [numbers].

    noises: in strata of t and in pairs eps, -eps: the mean that is measured is that of
    plain ones, with less of the noise.
    """
    built, group = point.built, point.built.group
    draw = make_forward(built.source, built.representation)
    noise = NoiseSamples(noises, stratified=True, antithetic=True)
    directions = make_directions(
        built.source, built.estimator, built.sampler, point.total, noise=noise
    )
    like = built.phases[-1].cameras(jax.random.key(0))
    fov = float(2 * np.rad2deg(np.arctan(0.5 * like.height / like.focal[0, 1])))

    @jax.jit
    def gradient(state, params, drawn, key):
        views = cameras_of(drawn, like.height, fov)
        keys = render_keys(drawn.background, group, group)
        z, _, pull, seen = rendered_views(draw, state, params, views, keys)
        g_z = directions(state, params, jax.random.split(key), z, seen).g_z
        rgb = seen.rendering.rgb
        theta = pull((g_z / group, jnp.zeros_like(rgb)))[0]
        return ravel_pytree(theta)[0]

    return gradient


def adam_scale(state) -> np.ndarray:
    """1 / sqrt of Adam's second moment for each number of theta: [numbers].

    What a gradient is multiplied by before it moves theta, but for the learning rate.
    Numbers that Adam does not hold get 0.
    """
    trees = [
        v for _, v in optax.tree_utils.tree_get_all_with_path(state.opt_state, "nu")
    ]
    found = {}
    for name in floating(state.params)._fields:
        held = [getattr(tree, name) for tree in trees]
        held = [leaf for leaf in held if not isinstance(leaf, optax.MaskedNode)]
        if held:
            found[name] = jnp.where(held[0] > 0, jax.lax.rsqrt(held[0] + 1e-30), 0.0)
    zeros = jax.tree.map(jnp.zeros_like, floating(state.params))
    return np.asarray(ravel_pytree(zeros._replace(**found))[0])


def gather(point: Point, noises: int, samples: int, background: bool) -> dict:
    """Draws: "A", "B" and every relative -> gradients [S numbers], float32."""
    gradient, params = make_gradient(point, noises), point.built.source.params
    kinds = relatives(background)
    found: dict[str, list] = {name: [] for name in ("A", "B", *kinds)}
    drawn = jax.jit(lambda key: drawn_rendering(point, key))
    for index in range(samples):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(23), index), 3)
        first, second = drawn(keys[0]), drawn(keys[1])
        asked = {"A": first, "B": first}
        asked |= {name: change(first, second) for name, change in kinds.items()}
        for place, (name, one) in enumerate(asked.items()):
            own = jax.random.fold_in(keys[2], place)
            found[name].append(np.asarray(gradient(point.state, params, one, own)))
    return {name: np.stack(values) for name, values in found.items()}


def describe(found: dict[str, np.ndarray], scale: np.ndarray) -> dict:
    """Variances and correlations by metric ("theta", "adam").

    signal: |E M|^2; views: the variance of one rendering's gradient without its noise;
    noise: that of the noise left in M; correlation: relative -> [value, error].
    """
    result = {}
    for metric, by in (("theta", 1.0), ("adam", scale)):
        wide = {name: values.astype(np.float64) * by for name, values in found.items()}
        a, b = wide.pop("A"), wide.pop("B")
        views, without = covariance_trace(a, b)
        pairs = {name: covariance_trace(a, p) for name, p in wide.items()}
        result[metric] = {
            "signal": squared_mean(a, b)[0],
            "views": views,
            "noise": float(((a - b) ** 2).sum(1).mean() / 2),
            "correlation": {
                name: jackknife(value / views, left / without)
                for name, (value, left) in pairs.items()
            },
        }
    return result
