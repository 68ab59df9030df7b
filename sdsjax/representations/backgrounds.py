"""Flat backgrounds behind a view: drawn from a key, white or of a given colour."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

Background = str | Sequence[float]


def draw_background(background: Background, key: Array | None, dtype) -> Array:
    """Returns the background's rgb [3] of one view.

    "random" is drawn from the key. Without a key every background is white, as scores
    and exports compare views on it.
    """
    if key is None or background == "white":
        return jnp.ones(3, dtype)
    if not isinstance(background, str):
        return jnp.asarray(background, dtype)
    return jax.random.uniform(key, (3,), dtype)


def check_background(background: Background) -> None:
    """Raises ValueError but for "random", "white" and three numbers."""
    if isinstance(background, str):
        if background not in ("random", "white"):
            raise ValueError(
                f"background={background!r}: allowed are 'random', 'white' or (r, g, b)"
            )
    elif len(background) != 3:
        raise ValueError(f"background={background}: give three numbers (r, g, b)")
