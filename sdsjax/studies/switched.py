"""Many estimators in one compiled step: a traced number says which of them works.

Compiling a training step takes longer than a short run of it, and all but the
estimator's part is the same. Under `vmap` a number that is not mapped leaves the switch
a real one: of a step, one estimator alone is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sdsjax.types import Array, Estimate, Estimator


def switched(estimators: Sequence[Estimator], index: Array) -> Estimator:
    """Makes the estimator that is estimators[index], index int32 and traced.

    Its state is the tuple of all states, of which the others stay as they are. Where
    one has a gradient on the image, all have, and it is zero; aux holds every name of
    any, zero where an estimator has no such thing. Raises ValueError where two have
    different shapes under one name.
    """

    def init(prior, key, z_spec) -> tuple:
        return tuple(one.init(prior, key, z_spec) for one in estimators)

    def estimate(prior, key, state, z, t, view) -> Estimate:
        def branch(place: int):
            def run(*drawn):
                own = estimators[place].estimate
                return own(prior, drawn[0], state[place], *drawn[1:])

            return run

        branches = [branch(place) for place in range(len(estimators))]
        shapes = [jax.eval_shape(run, key, z, t, view) for run in branches]
        whole = _union(shapes)

        def filled(run):
            return lambda *drawn: _fill(run(*drawn), whole)

        return jax.lax.switch(index, [filled(run) for run in branches], key, z, t, view)

    def learn(prior, key, state, zs, ts, views, estimates, linear) -> tuple:
        def branch(place: int):
            def run(state):
                new = estimators[place].learn(
                    prior, key, state[place], zs, ts, views, estimates, linear
                )
                return (*state[:place], new, *state[place + 1 :])

            return run

        branches = [branch(place) for place in range(len(estimators))]
        return jax.lax.switch(index, branches, state)

    return Estimator(init, estimate, learn)


def _union(shapes: Sequence[Estimate]) -> Estimate:
    # the shapes of an Estimate that has what any of them has
    aux, image = {}, None
    for found in shapes:
        image = found.image_grad if image is None else image
        for name, leaf in found.aux.items():
            known = aux.setdefault(name, leaf)
            if (known.shape, known.dtype) != (leaf.shape, leaf.dtype):
                raise ValueError(
                    f"switched: aux {name!r} is {known.shape} of one estimator and "
                    f"{leaf.shape} of another: name them apart"
                )
    return Estimate(shapes[0].grad, aux, image)


def _fill(found: Estimate, whole: Estimate) -> Estimate:
    zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in whole.aux.items()}
    image = found.image_grad
    if image is None and whole.image_grad is not None:
        image = jnp.zeros(whole.image_grad.shape, whole.image_grad.dtype)
    return Estimate(found.grad, {**zeros, **found.aux}, image)
