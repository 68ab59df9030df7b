"""The contract of a rule of density control, and what its edits are made of.

Notation: n rows (the capacity), alive [n]; an update is one step of the training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.render.splatting.project import rotation_columns
from sdsjax.types import RowEdit

Array = jax.Array


class DensityControl(NamedTuple):
    """A rule of density control.

    init: n -> tally; edit: (key, step, params, alive, tally, aux) -> (params, alive,
    tally, RowEdit); needs_screen_gradients: whether aux must hold them.
    """

    init: Callable[[int], Any]
    edit: Callable[..., tuple]
    needs_screen_gradients: bool


def is_due(step: Array, every: int, start: int, stop: int | None) -> Array:
    """Says whether an edit follows update `step`, counted from 0.

    every, start, stop: updates between two edits, before the first and after the last
    one (None: no last one).
    """
    done = step + 1
    due = (done % every == 0) & (done >= start)
    return due if stop is None else due & (done <= stop)


def no_edit(n: int) -> RowEdit:
    """Returns the edit that leaves each of n rows where it is."""
    return RowEdit(jnp.arange(n, dtype=jnp.int32), jnp.zeros(n, bool))


def rotate_to_world(params, local: Array) -> Array:
    """Rotates vectors [n 3] from each Gaussian's own axes to the world's."""
    rotation = rotation_columns(params.quats)
    rotated = [sum(rotation[i][j] * local[:, j] for j in range(3)) for i in range(3)]
    return jnp.stack(rotated, axis=-1)


def logit(opacity: Array) -> Array:
    """Returns the logit of an opacity, which is clipped so that it stays finite."""
    # 1e-6: what lies nearer to 0 or 1 rounds to an infinite logit
    opacity = jnp.clip(opacity, 1e-6, 1 - 1e-6)
    return jnp.log(opacity) - jnp.log1p(-opacity)
