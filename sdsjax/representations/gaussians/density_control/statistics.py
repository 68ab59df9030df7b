"""What density control measures and counts: screen gradients, and the edits made.

Notation: n rows (the capacity), alive [n]. The screen gradient of a view is
|(g_x W / 2, g_y H / 2)|, with g the gradient with respect to the projected mean (px) of
one view's descent direction (arXiv 2308.04079, sec. 5.2; W, H px). A rule compares its
mean over all views since the last edit in which a Gaussian was visible.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Counts(NamedTuple):
    """The numbers of rows edited since the beginning, int32 [] each.

    cloned, split: copies made; pruned, relocated: rows; shortfall: copies that found no
    free row.
    """

    cloned: Array
    split: Array
    pruned: Array
    relocated: Array
    shortfall: Array


class DensityStatistics(NamedTuple):
    """What a rule remembers from step to step.

    gradient [n]: sum of the screen gradients of all views since the last edit; seen
    [n]: in how many of them a Gaussian was visible; counts: of all edits.
    """

    gradient: Array
    seen: Array
    counts: Counts


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def probe_screen_gradient(
    probe: Array, pose: Array, half_size: tuple[float, float]
) -> Array:
    """Returns a zero screen offset [n 2] px whose gradient lands in probe [n].

    The offset is to be added to the projected means of one view. The gradient that it
    hands to the probe is the view's screen gradient, so that of a probe shared by views
    is their sum. pose: the view's world_to_camera [4 4]; half_size: (W / 2, H / 2) px.
    """
    del half_size
    # Tied to the pose: where vmap maps views, the offset is one of each view, and so is
    # the gradient whose norm is taken; untied, the norm would be that of their sum.
    return jnp.zeros((*probe.shape, 2), probe.dtype) + 0 * pose[0, 0]


def _probe_forward(probe, pose, half_size):
    return probe_screen_gradient(probe, pose, half_size), pose


def _probe_backward(half_size, pose, cotangent):
    scaled = cotangent * jnp.asarray(half_size, cotangent.dtype)
    return jnp.sqrt(jnp.sum(scaled**2, axis=-1)), jnp.zeros_like(pose)


probe_screen_gradient.defvjp(_probe_forward, _probe_backward)


def zero_counts() -> Counts:
    """Returns the counts of a rule that has done nothing yet."""
    return Counts(*(jnp.zeros((), jnp.int32) for _ in Counts._fields))


def zero_statistics(n: int) -> DensityStatistics:
    """Returns the statistics of n rows before the first view."""
    return DensityStatistics(jnp.zeros(n), jnp.zeros(n), zero_counts())


def add_views(statistics: DensityStatistics, aux) -> DensityStatistics:
    """Adds the views of one step to the statistics.

    aux: probe [n], the sum over views of the gradient of their mean; renderings with
    radii [views n 2], negative for what is not visible.
    """
    visible = aux["renderings"].aux["radii"][..., 0] >= 0
    more = (visible.shape[0] * aux["probe"]).astype(statistics.gradient.dtype)
    seen = statistics.seen + jnp.sum(visible, axis=0, dtype=statistics.seen.dtype)
    return statistics._replace(gradient=statistics.gradient + more, seen=seen)


def mean_gradient(statistics: DensityStatistics) -> Array:
    """Returns the mean screen gradient [n] of a view, 0 for what was never visible."""
    return statistics.gradient / jnp.maximum(statistics.seen, 1)


def count_true(mask: Array) -> Array:
    """Counts the true entries of a mask, int32."""
    return jnp.sum(mask, dtype=jnp.int32)


def add_counts(counts: Counts, **more: Array) -> Counts:
    """Adds to the counts of these names."""
    return counts._replace(**{k: getattr(counts, k) + v for k, v in more.items()})


def edit_report(alive: Array, counts: Counts, **more: Array) -> dict[str, Array]:
    """Returns the scalars by name that a person wants to see of an edit."""
    return {"alive": count_true(alive), **counts._asdict(), **more}
