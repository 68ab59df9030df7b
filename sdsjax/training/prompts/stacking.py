"""What assets share, and what each has for itself: trees with and without an axis.

Notation: n assets. States are stacked to [n ...], but for the number of the step, which
is one for all: what a step does every so often is then decided once and not for each.
Of the priors' parameters, arrays that all assets have in common (a network's) enter the
step once; the others (the states of a prompt) are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.training.train_step import TrainState
from sdsjax.types import PyTree

# Of a stacked TrainState, for vmap and shardings.
NO_AXIS: Any = None
STATE_AXES = TrainState(NO_AXIS, 0, 0, 0, 0, 0, 0)


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Stacks the states of assets that are at the same step."""
    stacked: Any = jax.tree.map(lambda *rows: jnp.stack(rows), *states)
    # a copy: the step donates its states, and must own them
    return stacked._replace(step=jnp.copy(states[0].step))


@jax.jit
def state_of_asset(stacked: TrainState, index) -> TrainState:
    """Picks one asset out of stacked states; one program for all of them."""
    rows: Any = stacked._replace(step=())
    own = jax.tree.map(lambda leaf: leaf[index], rows)
    return own._replace(step=jnp.copy(stacked.step))


class PriorSplit(NamedTuple):
    """How priors of one kind are split into what they share and what is their own.

    tree: of their parameters; own: of each leaf, whether assets differ in it.
    """

    tree: Any
    own: tuple[bool, ...]

    def parts(self, params: PyTree) -> tuple[list, list]:
        """Splits one prior's parameters into (shared, its own) leaves."""
        leaves = jax.tree.leaves(params)
        return (
            [leaf for leaf, own in zip(leaves, self.own) if not own],
            [leaf for leaf, own in zip(leaves, self.own) if own],
        )

    def join(self, shared: Sequence, own: Sequence) -> PyTree:
        """Puts one prior's parameters together again."""
        rest, mine = iter(shared), iter(own)
        return self.tree.unflatten([next(mine if o else rest) for o in self.own])


def split_priors(params: Sequence[PyTree]) -> PriorSplit:
    """Finds what priors share: leaves that are the same array, not an equal one.

    Raises ValueError for priors whose parameters differ in structure, shape or type.
    """
    kinds = [
        [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(one)]
        for one in params
    ]
    trees = [jax.tree.structure(one) for one in params]
    if any(tree != trees[0] for tree in trees) or any(k != kinds[0] for k in kinds):
        raise ValueError("these prompts give the prior parameters of different shapes")
    columns = zip(*(jax.tree.leaves(one) for one in params))
    own = tuple(any(leaf is not column[0] for leaf in column) for column in columns)
    return PriorSplit(trees[0], own)


def make_spread(split: PriorSplit, map_assets: Callable) -> Callable:
    """Makes what turns the step of one asset into that of n (`make_train_step`).

    The step's prior parameters are then (shared, own [n ...]); metrics get a leading
    axis. map_assets: (function, in_axes, out_axes) -> the mapped function.
    """

    def spread(step: Callable) -> Callable:
        def one(state, shared, own, key):
            return step(state, split.join(shared, own), key)

        mapped = map_assets(one, (STATE_AXES, None, 0, None), (STATE_AXES, 0))

        def together(states, prior_params, key):
            return mapped(states, *prior_params, key)

        return together

    return spread
