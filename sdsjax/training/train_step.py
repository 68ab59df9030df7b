"""One training step: pure, jitted once per phase, its state donated.

Per view: (theta, camera) -> rendering -> x = 2 rgb - 1 -> z = encode(x) -> estimate;
the descent direction in z (and in x, where an estimator gives one) is pulled back with
jax.vjp and averaged over the views; the gradient of the regulariser, and of penalties
where there are any (supervision.py), is added; optax moves theta. There is no surrogate
loss: an estimate is a direction, not the gradient of one.

Randomness: key = fold_in(base_key, step), split by name, so that a resumed run draws
what the whole run drew. [n ...] is a batch of n views; a multi-view prior takes g of
them together (groups.py), and each such rendering is given k noises, whose directions
are averaged (noises/samples.py): an estimator meets [k n / g ...] samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sdsjax.distributed.sharding import map_views, whole_results
from sdsjax.math import norm, tree_norm
from sdsjax.training.encoding import bind, to_latent
from sdsjax.training.forward_pass import make_forward
from sdsjax.training.groups import (
    grouped_linear,
    into_groups,
    out_of_groups,
    render_keys,
    sample_shape,
)
from sdsjax.training.noises.recursive import Recursive, carry, first_carried
from sdsjax.training.noises.samples import (
    DrawnNoise,
    NoiseSamples,
    draw_noises,
    first_statistics,
    linear_of_samples,
    mean_of_samples,
    noted,
    repeated,
)
from sdsjax.training.optimizers import make_control
from sdsjax.training.particles import state_of_particle, with_particle
from sdsjax.training.pullback import all_finite, floating, linear_maps, merge
from sdsjax.training.supervision import Penalty
from sdsjax.types import Array, Estimate, PriorSource, PyTree, View

# Folded into the base key in a step's place: no step's number.
INIT, PREVIEW = 2**32 - 1, 2**32 - 2
KEY_NAMES = ("camera", "render", "t", "estimate", "learn", "control", "penalty")


class TrainState(NamedTuple):
    """A state is all that the next step needs; nothing else is checkpointed.

    step: int32 scalar, updates done; params: theta; rep_state: the representation's;
    opt_state: optax's; estimator_state: the estimator's; noise_state: the statistics of
    importance sampling, () without it; carried: of a recursive gradient, () without it
    (noises/recursive.py). Several particles have a leading axis in params, rep_state
    and opt_state (sdsjax.training.particles).
    """

    step: Array
    params: PyTree
    rep_state: PyTree
    opt_state: PyTree
    estimator_state: PyTree
    noise_state: PyTree = ()
    carried: PyTree = ()


def step_keys(base_key: Array, step: Array) -> dict[str, Array]:
    """Makes a key per name of KEY_NAMES, a function of (base_key, step) alone."""
    keys = jax.random.split(jax.random.fold_in(base_key, step), len(KEY_NAMES))
    return dict(zip(KEY_NAMES, keys))


def init_state(
    source,
    representation,
    estimator,
    optimizer,
    cameras,
    prior_params,
    key,
    particles: int = 1,
    z_spec=None,
    noise: NoiseSamples = NoiseSamples(),
    recursive: Recursive | None = None,
) -> TrainState:
    """Makes the state before the first step; traceable.

    cameras: key -> cameras [n]; particles: see sdsjax.training.particles; z_spec: the
    shape of one view's z, found by tracing one view where it is not given; noise,
    recursive: as the step's.
    """
    key_params, key_estimator = jax.random.split(key)
    params, rep_state = representation.init(key_params)
    prior = bind(source, prior_params)

    def one_latent(params, rep_state):
        camera = jax.tree.map(lambda leaf: leaf[0], cameras(key))
        rgb = representation.render(params, rep_state, camera, key).rgb
        return to_latent(source, prior, representation.space, rgb)[0]

    if z_spec is None:
        z_spec = jax.eval_shape(one_latent, params, rep_state)
    begun = params, rep_state, optimizer.init(params)
    carried = recursive and first_carried(params, rep_state, floating(params))
    if particles > 1:

        def begin(key):
            params, rep_state = representation.init(key)
            return params, rep_state, optimizer.init(params)

        begun = jax.vmap(begin)(jax.random.split(key_params, particles))
    return TrainState(
        jnp.zeros((), jnp.int32),
        *begun,
        estimator_state=estimator.init(
            prior, key_estimator, sample_shape(z_spec, prior.group)
        ),
        noise_state=first_statistics(noise),
        carried=carried or (),
    )


def summarise(aux: dict[str, Array], penalty: Array, terms: dict) -> dict[str, Array]:
    """Averages an estimate's aux [n ...] over samples, by name.

    Of arrays it is their L2 norm.
    """
    sizes = {k: v if v.ndim == 1 else jax.vmap(norm)(v) for k, v in aux.items()}
    means = {k: jnp.mean(v.astype(jnp.float32)) for k, v in sizes.items()}
    return {
        **{f"estimate/{name}": value for name, value in means.items()},
        "regularizer": penalty,
        **{f"regularizer/{name}": value for name, value in terms.items()},
    }


def make_estimate(source: PriorSource, estimator) -> Callable:
    """Makes ((prior_params, estimator_state), (key, z, t, view)) -> Estimate."""

    def estimate_one(shared, each):
        prior_params, estimator_state = shared
        key, z, t, view = each
        prior = bind(source, prior_params)
        return estimator.estimate(prior, key, estimator_state, z, t, view)

    return estimate_one


class Directions(NamedTuple):
    """What a step's noises gave: of samples [m k ...], and of its n views.

    noises: (key, t, weight) of each sample; zs, seen: its z and view; estimates: its
    Estimate; g_z: the mean direction of each view [n ...]; g_x: the same on the image,
    or None.
    """

    noises: DrawnNoise
    zs: Array
    seen: View
    estimates: Estimate
    g_z: Array
    g_x: Array | None


def make_directions(
    source: PriorSource,
    estimator,
    sampler,
    total: int,
    mesh=None,
    microbatch: int = 0,
    noise: NoiseSamples = NoiseSamples(),
) -> Callable:
    """Makes (state, prior_params, (key_t, key_estimate), z, views) -> Directions.

    z [n ...] and views carry no gradient; the prior sees `group` of them together.
    Other arguments as `make_train_step`'s.
    """
    estimate_one, k = make_estimate(source, estimator), noise.per_view

    def directions(state, prior_params, keys, z, views) -> Directions:
        group = bind(source, prior_params).group
        key_t, key_estimate = keys
        noises = draw_noises(
            noise, sampler, key_t, key_estimate, state.step, total, z.shape[0] // group,
            state.noise_state if noise.importance else (),
        )  # fmt: skip
        zs, seen = repeated(into_groups((z, views), group), k)
        estimates = jax.lax.stop_gradient(
            map_views(estimate_one, mesh, -(-microbatch // group))(
                (prior_params, state.estimator_state), (noises.keys, zs, noises.t, seen)
            )
        )

        def mean(values):
            return out_of_groups(mean_of_samples(values, k, noises.weights), group)

        image = estimates.image_grad
        g_x = None if image is None else mean(image)
        g_z = mean(estimates.grad).astype(z.dtype)
        return Directions(noises, zs, seen, estimates, g_z, g_x)

    return directions


def learn(estimator, noise: NoiseSamples, prior, key, state, found, linear) -> dict:
    """Learns from a step's samples: the new fields of the state, by name.

    found: `Directions`; linear: the renderer's maps between views and theta.
    """
    linear = linear_of_samples(grouped_linear(linear, prior.group), noise.per_view)
    noises, estimates = found.noises, found.estimates
    return {
        "estimator_state": estimator.learn(
            prior, key, state.estimator_state,
            found.zs, noises.t, found.seen, estimates, linear,
        ),
        "noise_state": noted(noise, state.noise_state, noises, estimates),
    }  # fmt: skip


def make_gradient(
    source,
    draw,
    representation,
    estimator,
    sampler,
    total,
    mesh=None,
    microbatch=0,
    noise: NoiseSamples = NoiseSamples(),
):
    """Makes (state, prior_params, views, keys) -> what a step is made of.

    (grads, learnt, screen, metrics); learnt: the new fields of the state by name;
    screen: what density control reads."""

    directions = make_directions(
        source, estimator, sampler, total, mesh, microbatch, noise
    )

    def gradient(state, prior_params, views, keys):
        prior = bind(source, prior_params)
        group, n = prior.group, views.focal.shape[0]
        key_render = render_keys(keys["render"], n, group)
        forward = partial(
            draw, state=state, prior_params=prior_params, views=views, keys=key_render,
            key=keys["penalty"],
        )  # fmt: skip
        theta = floating(state.params)
        probe = representation.probe and representation.probe(state.params)
        (z, x, penalty), pull_all, (drawn, terms) = jax.vjp(
            forward, theta, probe, has_aux=True
        )

        z, drawn = jax.lax.stop_gradient((z, drawn))
        found = directions(
            state, prior_params, (keys["t"], keys["estimate"]), z, View(views, drawn)
        )
        zero_x = None if x is None else jnp.zeros_like(x)
        g_x = zero_x
        if found.g_x is not None and x is not None:
            g_x = found.g_x.astype(x.dtype) / n
        grads, watched = pull_all((found.g_z / n, g_x, jnp.ones_like(penalty)))
        linear = linear_maps(
            lambda theta: forward(theta, probe),
            theta,
            lambda cotangent: pull_all(cotangent)[:1],
            (zero_x, jnp.zeros_like(penalty)),
        )
        learnt = learn(estimator, noise, prior, keys["learn"], state, found, linear)
        metrics = {
            "grad_z": jnp.mean(jax.vmap(norm)(found.g_z)),
            "t": jnp.mean(found.noises.t.astype(jnp.float32)),
            **summarise(found.estimates.aux, penalty, terms),
        }
        screen = {"renderings": drawn, "probe": watched}
        return grads, learnt, screen, metrics

    return gradient


def carried_on(gradient: Callable, how: Recursive) -> Callable:
    """Makes of `make_gradient`'s function one whose gradient is carried on.

    See noises/recursive.py.
    """

    def carried_gradient(state, prior_params, views, keys):
        new, learnt, screen, metrics = gradient(state, prior_params, views, keys)
        carried, here = state.carried, (state.params, state.rep_state)
        before = state._replace(
            step=state.step - 1, params=carried.params, rep_state=carried.rep_state
        )
        old = gradient(before, prior_params, views, keys)[0]
        begin = state.step == how.first
        mean, carried, found = carry(how, carried, new, old, *here, begin)
        return mean, {**learnt, "carried": carried}, screen, {**metrics, **found}

    return carried_gradient


def make_train_step(
    source: PriorSource,
    representation,
    estimator,
    optimizer: optax.GradientTransformation,
    sampler,
    cameras: Callable[[Array], PyTree],
    *,
    total: int,
    mesh=None,
    particles: int = 1,
    supervise: Penalty | None = None,
    spread: Callable[[Callable], Callable] | None = None,
    microbatch: int = 0,
    noise: NoiseSamples = NoiseSamples(),
    recursive: Recursive | None = None,
    compiler_options: dict | None = None,
) -> Callable:
    """Makes step(state, prior_params, base_key) -> (state, metrics), state donated.

    cameras: key -> cameras [n] (n views a step); sampler: (key, step, total, shape) ->
    t; total: the run's number of steps; mesh: see distributed/sharding; particles: see
    particles.py; density control counts the steps of its own particle; supervise: see
    supervision.py; spread: this step -> that of several assets; microbatch: views that
    a device takes at once, 0: all; noise: how many noises a rendering is given, and how
    they are drawn; recursive: how gradients are carried on from step to step, with one
    particle only; compiler_options: of `jax.jit`. Metrics are scalars.
    """
    draw = make_forward(source, representation, mesh, supervise, microbatch)
    parts = draw, representation, estimator, sampler, total, mesh, microbatch, noise
    gradient = make_gradient(source, *parts)
    if recursive:
        gradient = carried_on(gradient, recursive)
    control = make_control(representation)

    def step(states: TrainState, prior_params, base_key):
        turn = states.step % particles
        state = state_of_particle(states, turn, particles)
        keys = step_keys(base_key, state.step)
        views = cameras(keys["camera"])
        grads, learnt, screen, metrics = gradient(state, prior_params, views, keys)

        # optax meets every leaf: those that no gradient reaches get zeros.
        grads = merge(grads, jax.tree.map(lambda p: jnp.zeros(p.shape), state.params))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["finite"] = all_finite(grads, params)
        metrics |= {f"grad/{k}": tree_norm(g) for k, g in grads._asdict().items()}

        aux = {"grads": grads, **screen}
        params, rep_state, opt_state, report = control(
            keys["control"], state.step // particles, params, state.rep_state,
            opt_state, aux,
        )  # fmt: skip
        metrics |= {f"control/{name}": value for name, value in report.items()}
        new = TrainState(state.step + 1, params, rep_state, opt_state, **learnt)
        return with_particle(states, turn, new, particles), metrics

    how = {"donate_argnums": 0, "compiler_options": compiler_options}
    return jax.jit(spread(step) if spread else step, **how, **whole_results(mesh))
