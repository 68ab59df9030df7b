"""The optimizer: Adam with a learning rate per parameter group.

A group is a field of the representation's parameters (a NamedTuple): the label of a
leaf is its field's name. A field without a learning rate (or with 0) is frozen.
Density control moves rows of the parameters; `edit_moments` moves the rows of every
optimizer moment with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sdsjax.types import PyTree, RowEdit


def group_labels(params: PyTree) -> PyTree:
    """The field name of every leaf; params is a NamedTuple of arrays or of trees."""
    return type(params)(
        *(
            jax.tree.map(lambda _, name=name: name, getattr(params, name))
            for name in params._fields
        )
    )


def exponential_decay(rate: float, final_factor: float, steps: int) -> optax.Schedule:
    """Makes the schedule rate * final_factor ** (i / steps), constant after `steps`."""
    return optax.exponential_decay(
        rate, max(steps, 1), final_factor, end_value=rate * final_factor
    )


def grouped_adam(
    lr: Mapping[str, float | optax.Schedule],
    *,
    fields: tuple[str, ...],
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-15,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Builds Adam (arXiv 1412.6980), a learning rate or schedule per field of params.

    clip_norm: cap on the norm of the whole gradient, before the groups part; None or 0
    for no cap. Raises ValueError for a learning rate of a field that does not exist.
    """
    unknown = sorted(set(lr) - set(fields))
    if unknown:
        raise ValueError(
            f"optimizer.lr names {', '.join(unknown)}, which the representation does "
            f"not have: its parameter groups are {', '.join(fields)}"
        )
    groups: Any = {
        name: optax.adam(lr[name], b1=b1, b2=b2, eps=eps)
        if callable(lr.get(name)) or lr.get(name)
        else optax.set_to_zero()
        for name in fields
    }
    grouped = optax.partition(groups, group_labels)
    if not clip_norm:
        return grouped
    return optax.chain(optax.clip_by_global_norm(clip_norm), grouped)


def edit_moments(params: PyTree, opt_state: PyTree, edit: RowEdit) -> PyTree:
    """Moves the rows of every moment with a row per primitive.

    Row i takes source[i]'s moment, and 0 where reset[i]. Moments are the subtrees of
    the optimizer's state that have the type of params.
    """
    rows = edit.source.shape[0]

    def follow(moment):
        if moment.ndim == 0 or moment.shape[0] != rows:
            return moment
        reset = edit.reset.reshape((rows,) + (1,) * (moment.ndim - 1))
        return jnp.where(reset, jnp.zeros_like(moment), moment[edit.source])

    def is_moments(node):
        return isinstance(node, type(params))

    return jax.tree.map(
        lambda node: jax.tree.map(follow, node) if is_moments(node) else node,
        opt_state,
        is_leaf=is_moments,
    )


def make_control(representation):
    """Makes density control that takes the optimizer's moments along.

    (key, step, params, rep_state, opt_state, aux) -> the three, edited, and what the
    edit reports, as scalars by name; the identity for a representation without control.
    """

    def kept(params, opt_state, edit):
        del params, edit
        return opt_state

    def control(key, step, params, rep_state, opt_state, aux):
        params, rep_state, edit = representation.control(
            key, step, params, rep_state, aux
        )
        rows = jnp.arange(edit.source.shape[0], dtype=edit.source.dtype)
        edited = jnp.any(edit.reset | (edit.source != rows))
        opt_state = jax.lax.cond(edited, edit_moments, kept, params, opt_state, edit)
        return params, rep_state, opt_state, dict(edit.aux or {})

    def no_control(key, step, params, rep_state, opt_state, aux):
        del key, step, aux
        return params, rep_state, opt_state, {}

    return no_control if representation.control is None else control
