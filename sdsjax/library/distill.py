"""Score distillation through any differentiable renderer: `sdsjax.distill`.

    key -> t, noise;  theta -> rgb = render(theta, camera) -> x = 2 rgb - 1 -> z
    grads = (dz / dtheta)^T estimate(z, t, noise), the mean over the views

It is the gradient of training/train_step.py with the caller's renderer in the place of
a representation: same keys, same signs, same groups of views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.cameras import Camera
from sdsjax.diffusion.timesteps import Sampler, evenly
from sdsjax.estimators import ESTIMATORS
from sdsjax.library.load_prior import LoadedPrior, as_loaded
from sdsjax.training.encoding import bind, to_latent
from sdsjax.training.forward_pass import make_forward
from sdsjax.training.groups import sample_shape
from sdsjax.training.pullback import merge
from sdsjax.training.train_step import TrainState, make_gradient, step_keys
from sdsjax.types import (
    Array,
    Estimator,
    Prior,
    PriorSource,
    PyTree,
    Rendering,
    Representation,
)

Render = Callable[[PyTree, Any], Array]


class Distilled(NamedTuple):
    """What one call of `distill` gives.

    grads: of the parameters, their structure: theta <- theta - rate grads; metrics:
    scalars by name (`t`, `grad_z`, norms of the estimator's terms); state: the
    estimator's, for the next call (empty where it learns nothing).
    """

    grads: PyTree
    metrics: dict[str, Array]
    state: PyTree


def distill(
    render: Render,
    params: PyTree,
    camera: Camera | None,
    key: Array,
    *,
    prior: LoadedPrior | PriorSource | Prior,
    estimator: str | Callable[..., Estimator] = "sds",
    t: int | Array | tuple = (20, 980),
    state: PyTree = None,
    **hyperparameters: Any,
) -> Distilled:
    """Computes the gradient of score distillation through a renderer; pure.

    It may be jitted, and mapped over params, cameras and keys.

    render: (params, camera) -> rgb [h w 3] in [0, 1], differentiable by JAX. params:
    any pytree; leaves that are not floating get zeros. camera: one
    `sdsjax.cameras.Camera`, or n of them (a leading axis on its arrays), whose mean is
    taken; None for what has no camera (a picture): render is then given None. prior: of
    `load_prior`, as an argument of the function that is jitted where it is large; or
    any `types.Prior`. estimator: a name of `sdsjax.estimators.ESTIMATORS`, or a factory
    such as those, with its hyper-parameters as further arguments (`guidance_scale=50`,
    `threshold=500`). t: the diffusion time, or (low, high), drawn evenly for each
    sample. state: what the last call returned; None: begin.
    Raises ValueError, in one line, for a renderer's wrong shape, an unknown estimator,
    times outside the schedule or views that make no whole groups; TypeError for unknown
    hyper-parameters.
    """
    source = as_loaded(prior)
    params = jax.tree.map(jnp.asarray, params)
    views = _views(camera)
    representation = _as_representation(render, params, views, camera is None)
    bound = bind(source, source.params)  # type: ignore[arg-type]
    count = views.focal.shape[0]
    if count % bound.group or (bound.group > 1 and camera is None):
        raise ValueError(
            f"this prior sees {bound.group} views together, not {count}: pass a "
            f"multiple of {bound.group} cameras, or load it with group=1"
        )
    made = _estimator(estimator, bound, hyperparameters)
    if state is None:
        state = _first_state(made, source, representation, params, views, key)
    train_state = TrainState(jnp.zeros((), jnp.int32), params, (), (), state)
    draw = make_forward(source, representation)  # type: ignore[arg-type]
    sampler = _sampler(t, bound.schedule.num_steps)
    gradient = make_gradient(source, draw, representation, made, sampler, 1)
    keys = step_keys(key, jnp.zeros((), jnp.int32))
    grads, learnt, _, metrics = gradient(train_state, source.params, views, keys)
    grads = merge(grads, jax.tree.map(jnp.zeros_like, params))
    metrics = {k: v for k, v in metrics.items() if not k.startswith("regularizer")}
    return Distilled(grads, metrics, learnt["estimator_state"])


def _views(camera: Camera | None) -> Camera:
    # cameras [n]: the null camera, whose pose is zeros, where there is none
    if camera is None:
        zeros = jnp.zeros((1, 2))
        return Camera(jnp.zeros((1, 4, 4)), zeros, zeros, 1, 1)
    if not isinstance(camera, Camera):
        raise TypeError(
            f"camera: {type(camera).__name__} is not a sdsjax.cameras.Camera: make one "
            "(cameras.orbit_camera), and let `render` read its own from it"
        )
    one = jnp.ndim(camera.focal) == 1
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None] if one else leaf, camera)


def _as_representation(
    render: Render, params: PyTree, views: Camera, flat: bool
) -> Representation:
    # what the training step asks of a renderer: rgb, and nothing to regularise

    def rendering(params, state, camera, key) -> Rendering:
        del state, key
        rgb = render(params, None if flat else camera)
        blank = jnp.ones(rgb.shape[:2], rgb.dtype)
        return Rendering(rgb, blank, blank, jnp.zeros_like(rgb))

    first = jax.tree.map(lambda leaf: leaf[0], views)
    seen = jax.eval_shape(lambda p, c: render(p, None if flat else c), params, first)
    shape, dtype = getattr(seen, "shape", ()), getattr(seen, "dtype", jnp.int32)
    if len(shape) != 3 or shape[-1] != 3 or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"render returned {dtype} {shape}: return rgb (height, width, 3), "
            "floating, in [0, 1]"
        )

    def regularize(params, state, renderings, step):
        del params, state, renderings, step
        return jnp.zeros(()), {}

    def init(key):
        del key
        return params, ()

    return Representation(init, rendering, "image", regularize)


def _estimator(estimator, prior: Prior, hyperparameters: dict) -> Estimator:
    if isinstance(estimator, str):
        if estimator not in ESTIMATORS:
            raise ValueError(
                f"estimator {estimator!r} is unknown: choose {', '.join(ESTIMATORS)}"
            )
        estimator = ESTIMATORS[estimator]
    return estimator(prior.schedule, **hyperparameters)


def _first_state(made: Estimator, source, representation, params, views, key):
    # as training/train_step.py begins: from the shape of one sample
    prior = bind(source, source.params)
    camera = jax.tree.map(lambda leaf: leaf[0], views)

    def one(params):
        rgb = representation.render(params, (), camera, None).rgb
        return to_latent(source, prior, "image", rgb)[0]

    z_spec = sample_shape(jax.eval_shape(one, params), prior.group)
    return made.init(prior, jax.random.fold_in(key, 1), z_spec)


def _sampler(t: Any, num_steps: int) -> Sampler:
    low, high = t if isinstance(t, tuple) else (t, t)
    for end in (low, high):
        if not isinstance(end, jax.core.Tracer) and not 0 <= int(end) < num_steps:
            raise ValueError(
                f"t = {int(end)} is outside the schedule: choose 0..{num_steps - 1}"
            )
    return evenly(lambda step, total: (low, high))
