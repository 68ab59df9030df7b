"""The ceiling: how well a representation can score when it is shown the truth.

The same representation, optimiser groups and budget of views, fitted to true renders by
plain regression instead of score distillation:

    loss = mean |I - I*|^2 + opacity_weight mean (A - A*)^2,  white background

over `batch` of `count` fixed views a step, drawn as training views are. What an
estimator reaches is then reported as a share of what the representation allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdsjax.optimizers import exponential_decay, grouped_adam
from sdsjax.pullback import floating, merge
from sdsjax.toybox import score as scoring
from sdsjax.toybox.captions import parse_caption
from sdsjax.toybox.views import draw_orbit
from sdsjax.types import Rendering, Representation

LEARNING_RATES = {
    "means": 0.01,
    "log_scales": 0.02,
    "quats": 0.02,
    "opacity_logits": 0.05,
    "sh": 0.02,
}


def training_views(caption: str, count: int, *, size: int, seed: int = 0):
    """(cameras [count], true Views) of orbits drawn as for training the prior."""
    spec, _ = parse_caption(caption)
    keys = jax.random.split(jax.random.key(seed), count)
    orbits = np.stack([np.asarray(a) for a in jax.vmap(draw_orbit)(keys)], axis=1)
    orbits = tuple(tuple(float(v) for v in row) for row in orbits)
    cameras = scoring.orbit_cameras(orbits, size)
    return cameras, scoring.true_views(spec, orbits, size=size, supersample=2)


def fit(
    caption: str,
    representation: Representation,
    *,
    steps: int = 400,
    batch: int = 4,
    count: int = 64,
    size: int = 64,
    seed: int = 0,
    learning_rates: Mapping[str, float] | None = None,
    opacity_weight: float = 1.0,
):
    """Fits a representation (of images, with a camera) to a caption's true renders.

    learning_rates: one a parameter group, Adam, falling to a tenth. Returns
    (params, state, losses [steps]). Raises CaptionError for what is no caption.
    """
    cameras, truth = training_views(caption, count, size=size, seed=seed)
    true_rgb, true_opacity = jnp.asarray(truth.rgb), jnp.asarray(truth.opacity)
    params, state = representation.init(jax.random.key(seed))
    rates = dict(learning_rates or LEARNING_RATES)
    rates = {k: v for k, v in rates.items() if k in params._fields}
    optimizer = grouped_adam(
        {k: exponential_decay(v, 0.1, steps) for k, v in rates.items()},
        fields=params._fields,
    )
    order = jax.random.permutation(
        jax.random.key(seed + 1),
        jnp.tile(jnp.arange(count), -(-steps * batch // count)),
    )[: steps * batch].reshape(steps, batch)

    draw: Callable[..., Rendering] = representation.render  # no key: white background

    def loss(moving, params, chosen):
        theta = merge(moving, params)

        def one(index):
            camera = jax.tree.map(lambda leaf: leaf[index], cameras)
            return draw(theta, state, camera, None)

        drawn = jax.vmap(one)(chosen)
        picture = jnp.mean((drawn.rgb - true_rgb[chosen]) ** 2)
        cover = jnp.mean((drawn.opacity - true_opacity[chosen]) ** 2)
        return picture + opacity_weight * cover

    def update(carry, chosen):
        params, moments = carry
        value, grad = jax.value_and_grad(loss)(floating(params), params, chosen)
        grad = merge(grad, jax.tree.map(jnp.zeros_like, params))
        change, moments = optimizer.update(grad, moments, params)
        return (optax.apply_updates(params, change), moments), value

    run = jax.jit(lambda carry, order: jax.lax.scan(update, carry, order))
    (params, _), losses = run((params, optimizer.init(params)), order)
    return params, state, losses


def ceiling(caption: str, representation: Representation, **settings) -> dict:
    """`score.score`'s dict for what `fit` (same keywords) makes."""
    params, state, _ = fit(caption, representation, **settings)
    draw: Callable[..., Rendering] = representation.render
    return scoring.score(lambda camera: draw(params, state, camera, None), caption)
