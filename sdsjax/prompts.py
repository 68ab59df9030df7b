"""View-dependent prompts: the words appended to a prompt for the side being looked at.

Angles in degrees as in cameras.py (azimuth 0 sees the front, +90 the object's own left
side). DreamFusion (arXiv 2209.14988, sec. 3.2) appends "front / side / back / overhead
view"; with one word for both sides a mirrored object is as right as the object, so
left and right may have words of their own.
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
    """Which side is seen, int32: FRONT within `half_angle` of azimuth 0, BACK within
    it of 180, OVERHEAD above an elevation of `overhead`."""
    turn = jnp.mod(jnp.asarray(azimuth) + 180.0, 360.0) - 180.0
    side = jnp.where(turn > 0, LEFT, RIGHT)
    index = jnp.where(jnp.abs(turn) <= half_angle, FRONT, side)
    index = jnp.where(jnp.abs(turn) > 180.0 - half_angle, BACK, index)
    return jnp.where(jnp.asarray(elevation) > overhead, OVERHEAD, index).astype(
        jnp.int32
    )


def view_prompts(prompt: str, words: ViewWords = TWO_SIDED) -> list[str]:
    """The prompt with each view's words, then the plain prompt: indices FRONT..ANY."""
    return [f"{prompt}, {word}" for word in words] + [prompt]
