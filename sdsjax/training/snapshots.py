"""What a listener may look at of a step, while later steps are taken.

A step is given its state's memory to write the next one into, so that whoever looks at
it from another thread needs a copy: made on the device, without waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sdsjax.cameras import Camera
from sdsjax.representations.gaussians import GaussianParams, as_gaussians
from sdsjax.training.build import Phase
from sdsjax.training.train_step import step_keys


class Snapshot(NamedTuple):
    """A snapshot is the asset after a step, and the cameras that the step drew.

    asset: Gaussians with their flags, or a field as a function of points (compiled),
    or None for a flat picture; cameras: () -> Camera [n], computed when called.
    """

    step: int
    asset: Any
    cameras: Callable[[], Camera]


@jax.jit
def _copied(tree):
    return jax.tree.map(jnp.copy, tree)


@lru_cache(maxsize=4)
def _drawing(phase: Phase) -> Callable:
    return jax.jit(lambda key, step: phase.cameras(step_keys(key, step)["camera"]))


def _cameras_of(phase: Phase, key: jax.Array, step: int) -> Camera:
    return _drawing(phase)(key, jnp.int32(step))


def take_snapshot(
    params, rep_state, representation, *, phase: Phase, key: jax.Array, step: int
) -> Snapshot:
    """Copies what a step has made of a particle. key: the run's; step: counted from 1.

    Returns at once: the arrays may not be computed yet.
    """
    params, rep_state = _copied((params, rep_state))
    asset = None
    if isinstance(params, GaussianParams):
        asset = as_gaussians(params, rep_state)
    elif representation.field is not None:
        asset = Partial(jax.jit(representation.field), params, rep_state)
    # the step counts from 0 where it draws
    return Snapshot(step, asset, partial(_cameras_of, phase, key, step - 1))
