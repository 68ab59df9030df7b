"""View-dependent prompts: the words appended to a prompt for the side being looked at.

Angles in degrees as in cameras.py (azimuth 0 sees the front, +90 the object's own left
side). DreamFusion (arXiv 2209.14988, sec. 3.2) appends "front / side / back / overhead
view"; with one word for both sides a mirrored object is as right as the object, so
left and right may have words of their own.

Perp-Neg (arXiv 2304.04968): the other side's prompt is a negative one, of which only
the part perpendicular to the positive direction counts: cond = e_0 + e + sum_i w_i
perp(e_i - e_0, e), e = e_y - e_0, w_i <= 0. Sides are interpolated: r = 1 -
|azimuth|/90 is 1 in front and 0 at the side, then r = 2 - |azimuth|/90 is 1 at the side
and 0 at the back.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

FRONT, LEFT, RIGHT, BACK, OVERHEAD, ANY = range(6)


class ViewWords(NamedTuple):
    """The words for each view index, in the order of the constants above."""

    front: str = "front view"
    left: str = "left side view"
    right: str = "right side view"
    back: str = "back view"
    overhead: str = "overhead view"


TWO_SIDED = ViewWords()
ONE_SIDED = TWO_SIDED._replace(left="side view", right="side view")
VIEW_WORDS = {"two_sided": TWO_SIDED, "one_sided": ONE_SIDED}


def view_index(
    azimuth: jax.Array,
    elevation: jax.Array,
    *,
    half_angle: float = 45.0,
    overhead: float = 60.0,
) -> jax.Array:
    """Returns which side of the object is seen, int32.

    FRONT within `half_angle` of azimuth 0, BACK within it of 180, OVERHEAD above an
    elevation of `overhead`, else LEFT or RIGHT.
    """
    turn = jnp.mod(jnp.asarray(azimuth) + 180.0, 360.0) - 180.0
    side = jnp.where(turn > 0, LEFT, RIGHT)
    index = jnp.where(jnp.abs(turn) <= half_angle, FRONT, side)
    index = jnp.where(jnp.abs(turn) > 180.0 - half_angle, BACK, index)
    return jnp.where(jnp.asarray(elevation) > overhead, OVERHEAD, index).astype(
        jnp.int32
    )


def view_endings(words: ViewWords = TWO_SIDED) -> list[str]:
    """Returns what `view_prompts` appends to a prompt, a text a side."""
    return [f", {word}" for word in words]


def view_prompts(prompt: str, words: ViewWords = TWO_SIDED) -> list[str]:
    """Returns the prompt with each view's words, then the plain prompt: FRONT..ANY."""
    return [prompt + ending for ending in view_endings(words)] + [prompt]


class Interpolation(NamedTuple):
    """The prompts and weights that Perp-Neg needs of one view.

    rows [2] int32: the two prompts between which the camera stands; mix [2]: their
    shares in the positive prompt's text states, 1 together; negatives [2] int32: the
    prompts that are negative here; weights [2], <= 0: theirs.
    """

    rows: jax.Array
    mix: jax.Array
    negatives: jax.Array
    weights: jax.Array


# -(a exp(-b r) + c): front against side, side against front, side and front before the
# back; as threestudio sets them.
FRONT_SIDE = (4.0, 0.5, -2.426)
SIDE_FRONT = (4.0, 0.5, -2.426)
SIDE_BACK = (1.0, 0.5, -0.606)
FRONT_BACK = (1.0, 0.5, 0.967)


def _decay(coefficients: tuple[float, float, float], r: jax.Array) -> jax.Array:
    a, b, c = coefficients
    return -(a * jnp.exp(-b * r) + c)


def perp_neg_view(
    azimuth: jax.Array, elevation: jax.Array, *, overhead: float = 60.0
) -> Interpolation:
    """Returns the prompts and weights of a view from its angles (degrees, scalars).

    Above `overhead` the overhead prompt stands alone: its weights are 0. (vmap
    outside.)
    """
    turn = jnp.mod(jnp.asarray(azimuth, jnp.float32) + 180.0, 360.0) - 180.0
    side, away = jnp.where(turn > 0, LEFT, RIGHT), jnp.abs(turn) / 90.0
    ahead, above = away <= 1.0, jnp.asarray(elevation) > overhead
    r = jnp.where(ahead, 1.0 - away, 2.0 - away)
    front, back = jnp.full_like(side, FRONT), jnp.full_like(side, BACK)
    rows = jnp.where(ahead, jnp.stack([front, side]), jnp.stack([side, back]))
    negatives = jnp.stack([front, side])
    forward = jnp.stack([_decay(FRONT_SIDE, r), _decay(SIDE_FRONT, 1.0 - r)])
    behind = jnp.stack([_decay(FRONT_BACK, r), _decay(SIDE_BACK, r)])
    weights = jnp.minimum(jnp.where(ahead, forward, behind), 0.0)
    return Interpolation(
        jnp.where(above, OVERHEAD, rows).astype(jnp.int32),
        jnp.stack([r, 1.0 - r]),
        negatives.astype(jnp.int32),
        jnp.where(above, 0.0, weights),
    )


def perpendicular(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a without its part along b, over all elements of ONE sample.

    a - <a, b> / max(|b|^2, 1e-6) b.
    """
    share = jnp.sum(a * b) / jnp.maximum(jnp.sum(b * b), 1e-6)
    return a - share.astype(a.dtype) * b


def perp_neg(cond, uncond, negatives, weights) -> jax.Array:
    """Folds negative prompts into `cond` by Perp-Neg, for every estimator.

    e_0 + e + sum_i w_i perp(e_i - e_0, e), e = e_y - e_0. cond, uncond: z's shape;
    negatives [m ...]; weights [m]. ONE sample: inner products run over one z, and vmap
    makes it right at any batch size.
    """
    e = cond - uncond
    for negative, weight in zip(negatives, weights):
        cond = cond + weight.astype(e.dtype) * perpendicular(negative - uncond, e)
    return cond
