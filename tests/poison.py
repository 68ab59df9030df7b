"""A train step that goes wrong at a step. Not a test; those of divergence share it."""

import jax
import jax.numpy as jnp

from sdsjax.training import programs


def poison(patch, at: int, lane=...) -> None:
    """Makes parameters NaN from step `at` on; lane: of one asset among several."""
    make = programs.make_train_step

    def make_poisoned(*args, **kwargs):
        step = make(*args, **kwargs)

        def wrapped(state, prior_params, key):
            state, metrics = step(state, prior_params, key)
            if int(state.step) >= at:
                bad = jax.tree.map(lambda p: p.at[lane].multiply(jnp.nan), state.params)
                state = state._replace(params=bad)
                finite = metrics["finite"].at[lane].set(False)
                metrics = {**metrics, "finite": finite}
            return state, metrics

        return wrapped

    patch.setattr(programs, "make_train_step", make_poisoned)
