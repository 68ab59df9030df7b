"""Small clouds of Gaussians and what the render tests compare."""

from functools import cache

import jax
import jax.numpy as jnp

from sdsjax.cameras import orbit_camera
from sdsjax.render.splatting.project import Gaussians
from sdsjax.render.splatting.rasterize import rasterize

BACKGROUND = (0.2, 0.5, 0.9)
LEARNT = Gaussians._fields[:5]
PICTURES = ("rgb", "opacity", "depth", "normal")

_orbit = jax.jit(orbit_camera, static_argnames=("width", "height"))


def cloud(n, *, seed=0, k=1, scale=0.08, opacity=0.0, dtype=jnp.float32):
    """n random Gaussians in a ball of radius 0.7, opaque enough to hide one another."""
    keys = jax.random.split(jax.random.key(seed), 6)
    normal = lambda key, *shape: jax.random.normal(key, shape, dtype)  # noqa: E731
    direction = normal(keys[0], n, 3)
    direction /= jnp.linalg.norm(direction, axis=1, keepdims=True)
    radius = 0.7 * jax.random.uniform(keys[1], (n, 1), dtype) ** (1 / 3)
    return Gaussians(
        means=radius * direction,
        log_scales=jnp.log(scale) + 0.5 * normal(keys[2], n, 3),
        quats=normal(keys[3], n, 4),
        opacity_logits=opacity + 1.5 * normal(keys[4], n),
        sh=0.5 * normal(keys[5], n, k, 3),
        alive=jnp.ones(n, bool),
    )


def small_camera(azimuth=30.0, elevation=20.0, width=40, height=24, **settings):
    return _orbit(azimuth, elevation, width=width, height=height, **settings)


@cache
def projection(rasterize, seed=9, **settings):
    """A random linear functional of all four pictures, (learnt fields, background,
    alive, camera) -> scalar: its gradient tests every output at once."""

    def value(learnt, background, alive, camera):
        gaussians = Gaussians(**learnt, alive=alive)
        drawn = rasterize(gaussians, camera, background=background, **settings)
        total = 0.0
        for i, name in enumerate(PICTURES):
            picture = getattr(drawn, name)
            key = jax.random.fold_in(jax.random.key(seed), i)
            total += jnp.vdot(picture, jax.random.normal(key, picture.shape))
        return total

    return value


@cache
def _jitted(function, **settings):
    draw = lambda g, camera, b: function(g, camera, background=b, **settings)  # noqa: E731
    slopes = jax.grad(projection(function, **settings), argnums=(0, 1))
    return jax.jit(draw), jax.jit(slopes)


def draw(gaussians, camera, function=rasterize, background=BACKGROUND, **settings):
    """The Rendering; compiled once for each function, settings and shapes."""
    background = jnp.array(background, gaussians.means.dtype)
    return _jitted(function, **settings)[0](gaussians, camera, background)


def gradient(function, gaussians, camera, **settings):
    """The gradient of `projection`: a dict of the learnt fields and the background."""
    background = jnp.array(BACKGROUND, gaussians.means.dtype)
    learnt, slope = _jitted(function, **settings)[1](
        learnt_fields(gaussians), background, gaussians.alive, camera
    )
    return {**learnt, "background": slope}


def learnt_fields(gaussians):
    return {name: getattr(gaussians, name) for name in LEARNT}


def relative_error(got, want):
    return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))
