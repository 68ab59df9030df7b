"""Views in groups: what a multi-view prior sees together, as one sample.

Notation: n views of a step, g of them a group (`Prior.group`), m = n / g samples. With
g = 1 a view is a sample and every array stays as it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.types import Linear, PyTree


def into_groups(views: PyTree, group: int) -> PyTree:
    """Arrays [n ...] of a step's views as samples [m g ...]; unchanged for g = 1."""
    if group == 1:
        return views
    return jax.tree.map(lambda leaf: leaf.reshape(-1, group, *leaf.shape[1:]), views)


def out_of_groups(samples: PyTree, group: int) -> PyTree:
    """Undoes `into_groups`, view by view."""
    if group == 1:
        return samples
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), samples)


def render_keys(key: jax.Array, views: int, group: int) -> jax.Array:
    """Makes keys [n] of the renderings of a step's n views, equal within a group.

    What a sample shows stands before one background, in training as here: a prior that
    sees four views before four colours explains the difference by fog.
    """
    keys = jax.random.split(key, views // group)
    return keys if group == 1 else jnp.repeat(keys, group, axis=0)


def grouped_linear(linear: Linear, group: int) -> Linear:
    """The renderer's linear maps between samples [m g ...] and theta."""
    if group == 1:
        return linear
    return Linear(
        lambda g_z: linear.pullback(out_of_groups(g_z, group)),
        lambda d_theta: into_groups(linear.pushforward(d_theta), group),
    )


def sample_shape(z_spec, group: int):
    """The shape of one sample's z, given that of one view's."""
    if group == 1:
        return z_spec
    return jax.ShapeDtypeStruct((group, *z_spec.shape), z_spec.dtype)
