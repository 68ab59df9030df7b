"""What the rules of density control are made of: what they remember, see and report.

Notation: n rows (the capacity), alive [n]. The screen gradient of a view is
|(g_x W / 2, g_y H / 2)|, with g the gradient with respect to the projected mean (px) of
one view's descent direction (arXiv 2308.04079, sec. 5.2; W, H px). A rule compares its
mean over all views since the last edit, of those that a Gaussian showed in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.render.splatting.project import rotation_columns
from sdsjax.types import RowEdit

Array = jax.Array


class Counts(NamedTuple):
    """Since the beginning, int32 []: copies made by clone and split, rows pruned and
    relocated, copies that found no free row."""

    cloned: Array
    split: Array
    pruned: Array
    relocated: Array
    shortfall: Array


class Tally(NamedTuple):
    """What a rule remembers: gradient [n], sum of the screen gradients of all views
    since the last edit; seen [n], in how many a Gaussian showed; counts."""

    gradient: Array
    seen: Array
    counts: Counts


class Control(NamedTuple):
    """A rule. begin: n -> tally; edit: (key, step, params, alive, tally, aux) ->
    (params, alive, tally, RowEdit); watches: whether it needs screen gradients."""

    begin: Callable[[int], Any]
    edit: Callable[..., tuple]
    watches: bool


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def watch(probe: Array, pose: Array, half_size: tuple[float, float]) -> Array:
    """A zero screen offset [n 2] px, to be added to the projected means of one view;
    the gradient that it hands to probe [n] is the view's screen gradient, so that of a
    probe shared by views is their sum. pose: the view's, world_to_camera [4 4];
    half_size: (W / 2, H / 2) px."""
    del half_size
    # Tied to the pose: where vmap maps views, the offset is one of each view, and so is
    # the gradient whose norm is taken; untied, the norm would be that of their sum.
    return jnp.zeros((*probe.shape, 2), probe.dtype) + 0 * pose[0, 0]


def _watch_forward(probe, pose, half_size):
    return watch(probe, pose, half_size), pose


def _watch_backward(half_size, pose, cotangent):
    scaled = cotangent * jnp.asarray(half_size, cotangent.dtype)
    return jnp.sqrt(jnp.sum(scaled**2, axis=-1)), jnp.zeros_like(pose)


watch.defvjp(_watch_forward, _watch_backward)


def no_counts() -> Counts:
    """Nothing done yet."""
    return Counts(*(jnp.zeros((), jnp.int32) for _ in Counts._fields))


def empty_tally(n: int) -> Tally:
    """Nothing seen and nothing done yet."""
    return Tally(jnp.zeros(n), jnp.zeros(n), no_counts())


def gather_views(tally: Tally, aux) -> Tally:
    """Adds a step's views. aux: probe [n], the sum over views of the gradient of their
    mean; renderings with radii [views n 2], negative for what does not show."""
    shown = aux["renderings"].aux["radii"][..., 0] >= 0
    more = (shown.shape[0] * aux["probe"]).astype(tally.gradient.dtype)
    seen = tally.seen + jnp.sum(shown, axis=0, dtype=tally.seen.dtype)
    return tally._replace(gradient=tally.gradient + more, seen=seen)


def mean_gradient(tally: Tally) -> Array:
    """Mean screen gradient [n] of a view, 0 for what did not show."""
    return tally.gradient / jnp.maximum(tally.seen, 1)


def along_axes(params, local: Array) -> Array:
    """R local [n 3]: from each Gaussian's own axes to the world."""
    rotation = rotation_columns(params.quats)
    turned = [sum(rotation[i][j] * local[:, j] for j in range(3)) for i in range(3)]
    return jnp.stack(turned, axis=-1)


def logit(opacity: Array) -> Array:
    """The opacity's logit, of what it is clipped to."""
    # 1e-6: what lies nearer to 0 or 1 rounds to an infinite logit
    opacity = jnp.clip(opacity, 1e-6, 1 - 1e-6)
    return jnp.log(opacity) - jnp.log1p(-opacity)


def number(mask: Array) -> Array:
    """How many are true, int32."""
    return jnp.sum(mask, dtype=jnp.int32)


def add(counts: Counts, **more: Array) -> Counts:
    """The counts, some of them raised."""
    return counts._replace(**{k: getattr(counts, k) + v for k, v in more.items()})


def unmoved(n: int) -> RowEdit:
    """The edit that leaves every row where it is."""
    return RowEdit(jnp.arange(n, dtype=jnp.int32), jnp.zeros(n, bool))


def due(step: Array, every: int, start: int, stop: int | None) -> Array:
    """Whether the update after which `step` + 1 are done is one for an edit."""
    done = step + 1
    now = (done % every == 0) & (done >= start)
    return now if stop is None else now & (done <= stop)


def report(alive: Array, counts: Counts, **more: Array) -> dict[str, Array]:
    """What a person wants to see of an edit."""
    return {"alive": number(alive), **counts._asdict(), **more}
