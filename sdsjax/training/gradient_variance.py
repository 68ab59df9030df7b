"""The variance of a run's own gradient, measured while it trains.

At the state of a step: that step's cameras are drawn as the step draws them, then
(t, eps) `samples` times for all n views at once, each time as many noises a view and
drawn in the same way as in the step (noises/samples.py). With g_v the mean direction of
view v:
    z      G = (g_1, ..., g_n) / sqrt(n): variance and signal are means over the views;
    theta  G = sum_v J_v^T g_v / n, what the optimiser sees but for the regularisers.
c*, r and what each reduction would leave are measured at the t of the step itself (the
first of a view's), view by view, and averaged. Error bars: see gradient_stats and
noise_projection; only (t, eps) vary, the views are the step's.
Keys are folded from the step's under a number that no step uses, so that a run draws
the same with and without. One sample of all views is held at a time: the memory of a
training step; the cost is `samples` steps' estimates and pullbacks, and 2 x `samples`
predictions for every view.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdsjax.diagnostics.gradient_stats import Measured, describe_groups
from sdsjax.diagnostics.moments import Draw, observe
from sdsjax.diagnostics.noise_projection import noise_projection
from sdsjax.training.encoding import bind
from sdsjax.training.forward_pass import make_forward
from sdsjax.training.groups import into_groups, render_keys
from sdsjax.training.noises.samples import NoiseSamples, draw_noises
from sdsjax.training.particles import state_of_particle
from sdsjax.training.pullback import floating
from sdsjax.training.train_step import Directions, make_directions, step_keys
from sdsjax.types import PriorSource, View

OWN = 2**31  # no step splits its key so often
GROUPS = 8


def whole_groups(samples: int) -> tuple[int, int]:
    """Returns (samples, groups): at most 8 groups, samples rounded up to a multiple.

    Raises ValueError for fewer than 2 samples.
    """
    if samples < 2:
        raise ValueError(f"variance of {samples} sample(s): draw at least 2")
    groups = min(samples, GROUPS)
    return -(-samples // groups) * groups, groups


def over_views(measured: Measured) -> Measured:
    """The mean over views [n], whose noises are independent."""
    n = measured.value.shape[0]
    error = jnp.sqrt(jnp.sum(measured.error**2)) / n
    return Measured(jnp.mean(measured.value), error, measured.dof)


def named(measured: dict[str, Measured]) -> dict[str, jax.Array]:
    """Names the scalars variance/<name> and variance/<name>_error."""
    row = {}
    for name, (value, error, _) in measured.items():
        row[f"variance/{name}"] = value
        row[f"variance/{name}_error"] = error
    return row


def pulled_back(drawn: Directions, z, x, pull: Callable) -> Draw:
    """Pulls the directions of n views back to theta; one draw of both spaces."""
    n, g_z, g_x = z.shape[0], drawn.g_z, drawn.g_x
    if x is not None:
        g_x = jnp.zeros_like(x) if g_x is None else g_x.astype(x.dtype)
    else:
        g_x = None
    g_theta = pull(jax.tree.map(lambda g: g / n, (g_z, g_x)))[0]
    return Draw({"z": g_z / jnp.sqrt(n), "theta": g_theta}, {})


def moments_by_name(found) -> dict[str, Measured]:
    """Names the variance, signal and ratio of the two of each space."""
    measured = {}
    for space, moments in found.items():
        stats = describe_groups(moments)
        measured[space] = stats.variance
        measured[f"signal_{space}"] = stats.signal
        measured[f"snr_{space}"] = stats.snr
    return measured


def projection_by_name(projection) -> dict[str, Measured]:
    """Names c*, r and what each reduction would leave, averaged over the views."""
    names = ("c_star", "r_mean", "r_min", "r_max")
    measured = {name: over_views(getattr(projection, name)) for name in names}
    left = {f"left_{name}": over_views(v) for name, v in projection.left.items()}
    return measured | left


def rendered_views(draw: Callable, state, prior_params, views, keys):
    """Renders n views and keeps the way back from their latents to the parameters.

    draw: `make_forward`'s. Returns (z, x, pull, seen): x is None where the estimator
    sees latents alone, seen: the n views. z and what is seen carry no gradient.
    """

    def forward(theta):
        (z, x, _), (drawn, _) = draw(theta, None, state, prior_params, views, keys)
        return (z, x), drawn

    (z, x), pull, drawn = jax.vjp(forward, floating(state.params), has_aux=True)
    z, drawn = jax.lax.stop_gradient((z, drawn))
    return z, x, pull, View(views, drawn)


def make_step_variance(
    source: PriorSource,
    representation,
    estimator,
    sampler,
    cameras: Callable,
    *,
    total: int,
    samples: int,
    particles: int = 1,
    microbatch: int = 0,
    noise: NoiseSamples = NoiseSamples(),
) -> Callable:
    """Makes measure(state, prior_params, base_key) -> scalars by name.

    Jitted, it only reads. Arguments as `make_train_step`'s. Names: variance/{z, theta,
    signal_z, signal_theta, snr_z, snr_theta, c_star, r_mean, r_min, r_max, left_none,
    left_sds, left_adaptive, left_optimal}, each with its `_error`. Raises ValueError
    for fewer than 2 samples.
    """
    samples, groups = whole_groups(samples)
    sizes = {"samples": samples, "groups": groups, "chunk": 1}
    draw = make_forward(source, representation, microbatch=microbatch)
    directions = make_directions(
        source, estimator, sampler, total, None, microbatch, noise
    )

    def measure(states, prior_params, base_key):
        state = state_of_particle(states, states.step % particles, particles)
        keys = step_keys(base_key, state.step)
        own = jax.random.fold_in(jax.random.fold_in(base_key, state.step), OWN)
        key_own, key_projection = jax.random.split(own)
        views = cameras(keys["camera"])
        n = views.focal.shape[0]
        prior = bind(source, prior_params)
        group = prior.group
        key_render = render_keys(keys["render"], n, group)
        z, x, pull, seen = rendered_views(draw, state, prior_params, views, key_render)

        def sample(key):
            drawn = directions(state, prior_params, jax.random.split(key), z, seen)
            return pulled_back(drawn, z, x, pull)

        found, _ = observe(sample, key_own, **sizes)
        noises = draw_noises(
            noise, sampler, keys["t"], keys["estimate"], state.step, total, n // group,
            state.noise_state if noise.importance else (),
        )  # fmt: skip
        zs, grouped = into_groups((z, seen), group)
        projection = jax.vmap(
            lambda k, z, t, view: noise_projection(prior, z, t, k, view=view, **sizes)
        )(
            jax.random.split(key_projection, n // group),
            zs,
            noises.t[:: noise.per_view],
            grouped,
        )
        return named(moments_by_name(found) | projection_by_name(projection))

    return jax.jit(measure)
