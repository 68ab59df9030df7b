"""Gradients of a step at one state of a run, for every way to draw its noises.

A sample: fresh cameras, one rendering, and for each option two draws (t, eps) whose
mean directions are pulled back: G_a, G_b. Options meet the same cameras. Of S samples
    noise  E |G_a - G_b|^2 / 2: the part of (t, eps) at given views, in theta and in z
    views  tr Cov(E[G | views]): the part of the cameras, which no option changes: the
           covariance of G_a and G_b, each the mean over all options first
    away   |E G - E G_ref|^2 / |E G_ref|^2, G_ref plain sampling at the largest k; the
           unbiased estimate, which may be negative
Errors: delete-one jackknife over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from sdsjax.studies.run_states import Point, stepper
from sdsjax.studies.statistics import covariance_trace, jackknife, squared_mean
from sdsjax.training.forward_pass import make_forward
from sdsjax.training.gradient_variance import rendered_views
from sdsjax.training.groups import render_keys
from sdsjax.training.noises.samples import NoiseSamples
from sdsjax.training.train_step import make_directions, step_keys


def step_flops(point: Point, k: int) -> float:
    """Operations of a whole step with k noises, XLA's count of the lowered program.

    A loop's body counts once, which leaves out most of the rasteriser's.
    """
    step = stepper(point.built, point.total, NoiseSamples(k))
    state = point.state._replace(noise_state=())
    lowered = step.lower(state, point.built.source.params, jax.random.key(0))
    return float((lowered.cost_analysis() or {}).get("flops", np.nan))


class Programs(NamedTuple):
    """What a sample is computed with: views, an option's two directions, pullback."""

    views: Callable
    pair: dict[str, Callable]
    pull: Callable


def programs(point: Point, options: dict[str, NoiseSamples]) -> Programs:
    """Compiles rendering and pullback once, and the network once an option."""
    built = point.built
    draw = make_forward(built.source, built.representation)
    cameras, group = built.phases[-1].cameras, built.group

    @jax.jit
    def views(state, params, key):
        keys = step_keys(key, state.step)
        drawn = cameras(keys["camera"])
        n = drawn.focal.shape[0]
        key_render = render_keys(keys["render"], n, group)
        z, x, pull, seen = rendered_views(draw, state, params, drawn, key_render)
        del x  # sds has no gradient in x
        return z, seen, pull

    @jax.jit
    def pull(pullback, g_z, x_zeros):
        return ravel_pytree(pullback((g_z / g_z.shape[0], x_zeros))[0])[0]

    def pair_of(noise):
        directions = make_directions(
            built.source, built.estimator, built.sampler, point.total, noise=noise
        )

        @jax.jit
        def pair(state, params, key, z, seen):
            return jax.lax.map(
                lambda key: (
                    directions(state, params, jax.random.split(key), z, seen).g_z
                ),
                jax.random.split(key),
            )

        return pair

    return Programs(views, {k: pair_of(v) for k, v in options.items()}, pull)


def gather(point: Point, options: dict[str, NoiseSamples], samples: int) -> dict:
    """Draws: option -> {"theta", "z"} -> [S 2 numbers], float32."""
    made, params = programs(point, options), point.built.source.params
    found = {name: {"theta": [], "z": []} for name in options}
    for index in range(samples):
        key = jax.random.fold_in(jax.random.key(17), index)
        z, seen, pullback = made.views(point.state, params, key)
        shape = seen.rendering.rgb.shape
        zeros = jax.numpy.zeros(shape, seen.rendering.rgb.dtype)
        for place, name in enumerate(options):
            own = jax.random.fold_in(key, place)
            g_z = made.pair[name](point.state, params, own, z, seen)
            theta = [np.asarray(made.pull(pullback, g, zeros)) for g in g_z]
            found[name]["theta"].append(np.stack(theta))
            found[name]["z"].append(np.asarray(g_z).reshape(2, -1))
    return {
        name: {space: np.stack(values) for space, values in spaces.items()}
        for name, spaces in found.items()
    }


def noise_variance(pairs: np.ndarray) -> list[float]:
    """E |a - b|^2 / 2 of pairs [S 2 d], with its error."""
    half = ((pairs[:, 0] - pairs[:, 1]) ** 2).sum(1) / 2
    return [float(half.mean()), float(half.std(ddof=1) / len(half) ** 0.5)]


def describe(found: dict, reference: str) -> dict:
    """What is reported: of the views, and of each option; numbers are [value, error].

    signal: |E G|^2, of the views' mean over all options.
    """
    options = {}
    wide = {name: v["theta"].astype(np.float64) for name, v in found.items()}
    base = wide[reference].mean(1)
    signal, signals = squared_mean(base, base)
    for name, pairs in wide.items():
        away = pairs.mean(1) - base
        apart, aparts = squared_mean(away, away)
        options[name] = {
            "noise": noise_variance(pairs),
            "noise_z": noise_variance(found[name]["z"].astype(np.float64)),
            "away": jackknife(apart / signal, aparts / signals),
        }
    first, second = np.mean([*wide.values()], axis=0).swapaxes(0, 1)
    both = (first + second) / 2
    return {
        "views": jackknife(*covariance_trace(first, second)),
        "signal": jackknife(*squared_mean(both, both)),
        "options": options,
    }
