"""Forward, for all views of a step: theta -> (z [n ...], x [n h w 3] or None, penalty).

What train_step.py pulls back: everything that theta is asked for passes through here.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sdsjax.distributed.sharding import map_views
from sdsjax.training.encoding import bind, to_latent
from sdsjax.training.pullback import merge
from sdsjax.training.supervision import Penalty, PenaltyInputs
from sdsjax.types import PriorSource


def make_forward(
    source: PriorSource,
    representation,
    mesh=None,
    supervise: Penalty | None = None,
    microbatch: int = 0,
) -> Callable:
    """Makes the forward pass of all views of a step.

    forward(theta, probe, state, prior_params, views, keys, key=None) -> ((z, x,
    penalty), (renderings, terms)). theta: the floating leaves of the parameters, probe:
    the representation's, shared by the views, or None; keys [n]: of the renderings,
    key: of `supervise`. microbatch: views rendered and encoded at once, 0: all.
    """

    def one(shared, each):
        params, probe, rep_state, prior_params = shared
        watched = () if probe is None else (probe,)
        rendering = representation.render(params, rep_state, *each, *watched)
        prior = bind(source, prior_params)
        z, x = to_latent(source, prior, representation.space, rendering.rgb)
        return z, x, rendering

    def forward(theta, probe, state, prior_params, views, keys, key=None):
        params = merge(theta, state.params)
        shared = (params, probe, state.rep_state, prior_params)
        z, x, renderings = map_views(one, mesh, microbatch)(shared, (views, keys))
        penalty, terms = representation.regularize(
            params, state.rep_state, renderings, state.step
        )
        if supervise is not None:
            prior = bind(source, prior_params)
            about = prior, prior_params, params, state.rep_state
            asked = supervise(PenaltyInputs(*about, x, renderings, state.step, key))
            penalty, terms = penalty + sum(asked.values()), terms | asked
        return (z, x, jnp.asarray(penalty, jnp.float32)), (renderings, terms)

    return forward
