"""A train step that goes wrong at a step. Not a test; those of divergence share it."""

from functools import partial

import jax
import jax.numpy as jnp

from sdsjax.training import programs


@partial(jax.jit, static_argnums=2)
def spoiled(params, finite, lane):
    """Parameters of NaN in a lane, and the flag that says so."""
    bad = jax.tree.map(lambda p: p.at[lane].multiply(jnp.nan), params)
    return bad, finite.at[lane].set(False)


def poison(patch, at: int, lane=...) -> None:
    """Makes parameters NaN from step `at` on; lane: of one asset among several."""
    make = programs.make_train_step

    def make_poisoned(*args, **kwargs):
        step = make(*args, **kwargs)

        def wrapped(state, prior_params, key):
            state, metrics = step(state, prior_params, key)
            if int(state.step) >= at:
                bad, finite = spoiled(state.params, metrics["finite"], lane)
                state = state._replace(params=bad)
                metrics = {**metrics, "finite": finite}
            return state, metrics

        return wrapped

    patch.setattr(programs, "make_train_step", make_poisoned)
