"""Small clouds of Gaussians and what the render tests compare."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.cameras import OrbitRange, orbit_camera, random_orbits
from sdsjax.render.splatting.project import Gaussians
from sdsjax.render.splatting.rasterize import rasterize

BACKGROUND = (0.2, 0.5, 0.9)
LEARNT = Gaussians._fields[:5]
PICTURES = ("rgb", "opacity", "depth", "normal")

orbits = jax.jit(
    lambda width, height: random_orbits(
        jax.random.key(5), 3, OrbitRange(), width=width, height=height
    ),
    static_argnames=("width", "height"),
)
_orbit = jax.jit(orbit_camera, static_argnames=("width", "height"))


def cloud(n, *, seed=0, k=1, scale=0.08, opacity=0.0, dtype=np.float32):
    """n random Gaussians in a ball of radius 0.7, opaque enough to hide one another, as
    numpy arrays."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    fields = {
        "means": 0.7 * rng.random((n, 1)) ** (1 / 3) * direction,
        "log_scales": np.log(scale) + 0.5 * rng.normal(size=(n, 3)),
        "quats": rng.normal(size=(n, 4)),
        "opacity_logits": opacity + 1.5 * rng.normal(size=n),
        "sh": 0.5 * rng.normal(size=(n, k, 3)),
    }
    learnt = {name: np.asarray(value, dtype) for name, value in fields.items()}
    return Gaussians(**learnt, alive=np.ones(n, bool))


def small_camera(azimuth=30.0, elevation=20.0, width=40, height=24, **settings):
    return _strong(_orbit(azimuth, elevation, width=width, height=height, **settings))


@cache
def projection(rasterize, seed=9, **settings):
    """A random linear functional of all four pictures, (learnt fields, background,
    alive, camera) -> (scalar, Rendering): its gradient tests every output at once. The
    weights are constants of the program, which would be longer if it drew them."""

    def value(learnt, background, alive, camera):
        gaussians = Gaussians(**learnt, alive=alive)
        drawn = rasterize(gaussians, camera, background=background, **settings)
        total = 0.0
        for i, name in enumerate(PICTURES):
            picture = getattr(drawn, name)
            weights = np.random.default_rng([seed, i]).normal(size=picture.shape)
            total += jnp.vdot(picture, weights.astype(picture.dtype))
        return total, drawn

    return value


@cache
def _jitted(function, **settings):
    draw = lambda g, camera, b: function(g, camera, background=b, **settings)  # noqa: E731
    slopes = jax.value_and_grad(projection(function, **settings), (0, 1), has_aux=True)
    return jax.jit(draw), jax.jit(slopes)


def _strong(tree):
    """The same without weak types, of which each would be a program of its own."""
    return jax.tree.map(np.asarray, tree)


def draw(gaussians, camera, function=rasterize, background=BACKGROUND, **settings):
    """The Rendering, as numpy arrays, whose arithmetic compiles nothing; compiled once
    for each function, settings and shapes."""
    if function is rasterize and background is BACKGROUND and not settings:
        # as the program of the gradient returns it, which is compiled anyway
        return value_and_gradient(function, gaussians, camera)[0][1]
    gaussians = _strong(gaussians)
    background = np.asarray(background, gaussians.means.dtype)
    drawn = _jitted(function, **settings)[0](gaussians, camera, background)
    return jax.device_get(drawn)


def value_and_gradient(function, gaussians, camera, **settings):
    """((value, Rendering), gradient) of `projection`, as numpy arrays, by one program:
    the gradient is a dict of the learnt fields and the background."""
    gaussians = _strong(gaussians)
    background = np.asarray(BACKGROUND, gaussians.means.dtype)
    both = _jitted(function, **settings)[1]
    out, (learnt, slope) = jax.device_get(
        both(learnt_fields(gaussians), background, gaussians.alive, camera)
    )
    return out, {**learnt, "background": slope}


def gradient(function, gaussians, camera, **settings):
    """The gradient alone."""
    return value_and_gradient(function, gaussians, camera, **settings)[1]


def learnt_fields(gaussians):
    return {name: getattr(gaussians, name) for name in LEARNT}


def relative_error(got, want):
    return np.linalg.norm(np.subtract(got, want)) / np.linalg.norm(want)
