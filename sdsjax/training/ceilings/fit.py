"""The ceiling: how well a representation can score when it is shown the truth.

The same representation, optimiser groups and budget of views, fitted to true renders by
plain regression instead of score distillation:

    loss = mean |I - I*|^2 + opacity_weight mean (A - A*)^2,  white background

over `batch` of `count` fixed views a step, drawn as training views are. What an
estimator reaches is then reported as a share of what the representation allows.

Where rays are dear, a step sees every `stride`-th pixel along and across, beginning at
random: a view of its own, through a camera whose pixels are as far apart, so that rays
go through the middle of true pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdsjax.cameras import Camera
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.views import draw_orbit
from sdsjax.training.optimizers import exponential_decay, grouped_adam
from sdsjax.training.pullback import floating, merge
from sdsjax.types import Rendering, Representation

Array = jax.Array

LEARNING_RATES = {
    "means": 0.01,
    "log_scales": 0.02,
    "quats": 0.02,
    "opacity_logits": 0.05,
    "sh": 0.02,
    "tables": 0.02,
    "density": 0.005,
    "color": 0.005,
    "proposal": 0.01,
}
# What `fit` is asked for, by the type of the parameters: what costs a minute or two.
SETTINGS: dict[str, dict[str, Any]] = {
    "GaussianParams": {},
    "NerfParams": {"stride": 4, "opacity_weight": 1.0},
}


class FitSettings(NamedTuple):
    """The settings of a fit.

    steps of `batch` views, out of `count` of `size` pixels a side; seed: of parameters,
    views and their order; opacity_weight: see above; stride: a divisor of size.
    """

    steps: int = 400
    batch: int = 4
    count: int = 64
    size: int = 64
    seed: int = 0
    opacity_weight: float = 1.0
    stride: int = 1

    def checked(self) -> FitSettings:
        """Returns these settings; ValueError where the stride does not divide."""
        if self.size % self.stride:
            raise ValueError(f"stride = {self.stride} must divide size = {self.size}")
        return self


def settings_for(params) -> dict[str, Any] | None:
    """Returns the keywords of `ceiling` for a representation with such parameters.

    None for one whose ceiling means nothing (a picture is its own) or is unknown.
    """
    return SETTINGS.get(type(params).__name__)


def training_views(caption: str, count: int, *, size: int, seed: int = 0):
    """Draws (cameras [count], true Views) as for training the prior."""
    spec, _ = parse_caption(caption)
    keys = jax.random.split(jax.random.key(seed), count)
    orbits = np.stack([np.asarray(a) for a in jax.vmap(draw_orbit)(keys)], axis=1)
    orbits = tuple(tuple(float(v) for v in row) for row in orbits)
    cameras = jax.tree.map(jnp.asarray, scoring.orbit_cameras(orbits, size))
    return cameras, scoring.true_views(spec, orbits, size=size, supersample=2)


def every(camera: Camera, stride: int, offset: Array) -> Camera:
    """Returns the camera of every `stride`-th pixel from offset [2] (x, y) on."""
    # pixel i of it is pixel stride i + offset, whose middle is at + 1/2
    middle = camera.principal - offset - 0.5
    return dataclasses.replace(
        camera,
        focal=camera.focal / stride,
        principal=middle / stride + 0.5,
        width=camera.width // stride,
        height=camera.height // stride,
    )


def _pixels(picture: Array, stride: int, offset: Array) -> Array:
    # [h/s w/s ...] of a picture [h w ...], as `every` sees it
    x, y = offset
    h, w = picture.shape[:2]
    shape = (h // stride, stride, w // stride, stride, *picture.shape[2:])
    return picture.reshape(shape)[:, y, :, x]


class Shown(NamedTuple):
    """What a fit is shown: cameras [V]; rgb [V s s 3] on white; opacity [V s s]."""

    cameras: Camera
    rgb: Array
    opacity: Array


def _make_loss(representation: Representation, settings: FitSettings):
    """Makes loss(moving, params, state, step, chosen, shown) -> (scalar, renderings),
    of the chosen views; moving: the floating leaves of the parameters."""
    draw: Callable[..., Rendering] = representation.render  # no key: white background
    stride = settings.stride

    def loss(moving, params, state, step, chosen, shown: Shown):
        theta = merge(moving, params)
        key = jax.random.fold_in(jax.random.key(settings.seed + 2), step)
        offset = jax.random.randint(key, (2,), 0, stride)

        def one(index):
            camera = jax.tree.map(lambda leaf: leaf[index], shown.cameras)
            drawn = draw(theta, state, every(camera, stride, offset), None)
            rgb, opacity = (
                _pixels(pictures[index], stride, offset)
                for pictures in (shown.rgb, shown.opacity)
            )
            picture = jnp.mean((drawn.rgb - rgb) ** 2)
            return drawn, picture, jnp.mean((drawn.opacity - opacity) ** 2)

        drawn, picture, cover = jax.vmap(one)(chosen)
        _, terms = representation.regularize(theta, state, drawn, step)
        total = jnp.mean(picture) + settings.opacity_weight * jnp.mean(cover)
        return total + terms.get("interlevel", 0.0), drawn

    return loss


def _make_update(representation: Representation, loss, optimizer, seed: int):
    """Makes update(shown, (params, state, moments), (step, chosen)) -> (the same three,
    loss)."""
    # A field's control moves no rows; that of splats would edit the moments too.
    control = representation.control if representation.field else None

    def update(shown, carry, now):
        params, state, moments = carry
        step, chosen = now
        (value, drawn), grad = jax.value_and_grad(loss, has_aux=True)(
            floating(params), params, state, step, chosen, shown
        )
        grad = merge(grad, jax.tree.map(jnp.zeros_like, params))
        change, moments = optimizer.update(grad, moments, params)
        params = optax.apply_updates(params, change)
        if control:
            key = jax.random.fold_in(jax.random.key(seed + 3), step)
            aux = {"grads": grad, "renderings": drawn}
            params, state, _ = control(key, step, params, state, aux)
        return (params, state, moments), value

    return update


def fit(
    caption: str,
    representation: Representation,
    *,
    learning_rates: Mapping[str, float] | None = None,
    **settings,
):
    """Fits a representation (of images, with a camera) to a caption's true renders.

    Keywords, results and faults as `fit_views` has them, and CaptionError for what is
    no caption.
    """
    how = FitSettings(**settings).checked()
    cameras, truth = training_views(caption, how.count, size=how.size, seed=how.seed)
    shown = Shown(cameras, jnp.asarray(truth.rgb), jnp.asarray(truth.opacity))
    return fit_views(shown, representation, learning_rates=learning_rates, **settings)


def fit_views(
    shown: Shown,
    representation: Representation,
    *,
    learning_rates: Mapping[str, float] | None = None,
    **settings,
):
    """Fits a representation (of images, with a camera) to given views of an object.

    learning_rates: one a parameter group, Adam, falling to a tenth; settings: of
    `FitSettings`, whose size and count the views' own replace. A field's band and grid
    of empty cells follow, and its proposal learns; other regularisers and density
    control are left out. Returns (params, state, losses [steps]). Raises ValueError for
    a stride that does not divide the pictures.
    """
    count, size = shown.rgb.shape[:2]
    how = FitSettings(**settings)._replace(count=count, size=size).checked()
    params, state = representation.init(jax.random.key(how.seed))
    rates = dict(learning_rates or LEARNING_RATES)
    optimizer = grouped_adam(
        {
            k: exponential_decay(v, 0.1, how.steps)
            for k, v in rates.items()
            if k in params._fields
        },
        fields=params._fields,
    )
    order = jax.random.permutation(
        jax.random.key(how.seed + 1),
        jnp.tile(jnp.arange(how.count), -(-how.steps * how.batch // how.count)),
    )[: how.steps * how.batch].reshape(how.steps, how.batch)
    loss = _make_loss(representation, how)
    update = _make_update(representation, loss, optimizer, how.seed)
    # the views are arguments, not constants: another object's are not compiled again
    run = jax.jit(
        lambda shown, carry, order: jax.lax.scan(partial(update, shown), carry, order)
    )
    begun = params, state, optimizer.init(params)
    (params, state, _), losses = run(shown, begun, (jnp.arange(how.steps), order))
    return params, state, losses


def ceiling(caption: str, representation: Representation, **settings) -> dict:
    """Scores what `fit` (same keywords) makes; a dict as `score.score`'s."""
    params, state, _ = fit(caption, representation, **settings)
    draw: Callable[..., Rendering] = representation.render
    return scoring.score(lambda camera: draw(params, state, camera, None), caption)
