"""Radiance fields small enough to be compiled often, and one known in closed form."""

import jax
import numpy as np

from sdsjax.representations.radiance_field.representation import NerfParams, nerf

SMALL = {"levels": 2, "log2_size": 9, "hidden": 8, "coarse": 6, "fine": 5}
KEY = jax.random.key(0)


def in_a_hurry(jitted, *arguments):
    """Compiled without optimisation: it runs once or twice."""
    options = {"xla_backend_optimization_level": 0}
    return jitted.lower(*arguments).compile(compiler_options=options)


def as_ball(params: NerfParams) -> NerfParams:
    """Networks that say nothing: the blob alone is left, and grey."""
    silent = jax.tree.map(np.zeros_like, (params.density, params.color))
    params = params._replace(density=silent[0], color=silent[1])
    if params.proposal:
        still = jax.tree.map(np.zeros_like, params.proposal)
        params = params._replace(proposal=still)
    return params


def blob(**settings):
    """(representation, params, state) of a field that is a blob alone."""
    representation = nerf(**{**SMALL, "levels": 1, **settings})
    shapes = jax.eval_shape(representation.init, KEY)
    params, state = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes)
    return representation, as_ball(params), state


def far_along(origins, directions, radius):
    """Distances at which rays from inside a ball of a radius leave it."""
    along = np.sum(origins * directions, axis=-1)
    beyond = radius**2 - np.sum(origins**2, axis=-1)
    return -along + np.sqrt(along**2 + beyond)
