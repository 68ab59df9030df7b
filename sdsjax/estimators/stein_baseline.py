"""Baseline functions phi for Stein's control variate: scalars of the noisy z_t.

phi = -l(rendered, estimated from D(z_t)): for "depth" l = 1 - Pearson(1/depth,
disparity) over opacity > .5 (monocular networks predict disparity), for "normal" l =
1 - mean cosine there; "constant" is phi = -1. A monocular network sees no pose: its
normals [h w 3] are in the camera's frame, into which the rendered ones are turned.
D(z_t) is the decoded noisy latent. Losses are computed in float32.
Source: SteinDreamer (arXiv 2401.00604), eq. 10.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdsjax.math import safe_divide

OPAQUE = 0.5


def pearson(a: jax.Array, b: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the correlation of a and b [h w] where `mask`; 0 if either is constant.

    mask: 0 or 1.
    """
    count = jnp.maximum(jnp.sum(mask), 1.0)
    a = mask * (a - jnp.sum(mask * a) / count)
    b = mask * (b - jnp.sum(mask * b) / count)
    product = jnp.sum(a * a) * jnp.sum(b * b)
    flat = product <= 0.0
    return jnp.where(
        flat, 0.0, jnp.sum(a * b) / jnp.sqrt(jnp.where(flat, 1.0, product))
    )


def depth_loss(depth, opacity, disparity) -> jax.Array:
    """Returns 1 - Pearson(1/depth, disparity) over opacity > .5, in 0..2; all [h w]."""
    mask = ((opacity > OPAQUE) & (depth > 0.0)).astype(disparity.dtype)
    return 1.0 - pearson(safe_divide(mask, depth), disparity, mask)


def unit(vectors: jax.Array) -> jax.Array:
    """Scales vectors [... 3] to length 1, zeros left alone, differentiably."""
    square = jnp.sum(vectors * vectors, -1, keepdims=True)
    zero = square <= 0.0
    return jnp.where(zero, 0.0, vectors / jnp.sqrt(jnp.where(zero, 1.0, square)))


def normal_loss(normal, opacity, estimate) -> jax.Array:
    """Returns 1 - the mean cosine of two normals over opacity > .5, in 0..2.

    normal, estimate [h w 3] in one frame.
    """
    mask = (opacity > OPAQUE).astype(estimate.dtype)
    cosine = jnp.sum(unit(normal) * unit(estimate), -1)
    return 1.0 - jnp.sum(mask * cosine) / jnp.maximum(jnp.sum(mask), 1.0)


def _fit(image: jax.Array, like: jax.Array) -> jax.Array:
    image = image.astype(jnp.float32)
    shape = (*like.shape[:2], *image.shape[2:])
    if image.shape == shape:
        return image
    return jax.image.resize(image, shape, "linear", antialias=True)


def _rendering(view, name: str):
    if view is None or view.rendering is None:
        raise ValueError(
            f"stein: baseline {name!r} compares with a rendering, and this view has "
            "none: choose baseline 'constant'"
        )
    return view.rendering


def constant(prior, z_t, t, view) -> jax.Array:
    """Returns phi = -1, with which (mu = 1) the estimator is SDS."""
    del prior, t, view
    return jnp.full((), -1.0, z_t.dtype)


def depth(prior, z_t, t, view) -> jax.Array:
    """Returns phi = -depth_loss of the rendering and of D(z_t)'s disparity."""
    del t
    drawn = _rendering(view, "depth")
    disparity = prior.monocular(prior.decode(z_t))[0].astype(jnp.float32)
    rendered, opacity = (_fit(a, disparity) for a in (drawn.depth, drawn.opacity))
    return -depth_loss(rendered, opacity, disparity).astype(z_t.dtype)


def normal(prior, z_t, t, view) -> jax.Array:
    """Returns phi = -normal_loss of the rendering and of D(z_t)'s normals."""
    del t
    drawn = _rendering(view, "normal")
    estimate = prior.monocular(prior.decode(z_t))[1].astype(jnp.float32)
    rendered = drawn.normal.astype(jnp.float32)
    if view.camera is not None:
        rendered = rendered @ view.camera.world_to_camera[:3, :3].T.astype(jnp.float32)
    rendered, opacity = (_fit(a, estimate) for a in (rendered, drawn.opacity))
    return -normal_loss(rendered, opacity, estimate).astype(z_t.dtype)


BASELINES = {"constant": constant, "depth": depth, "normal": normal}
