"""What several representations share: flat backgrounds, and checks of settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

Background = str | Sequence[float]


def draw_background(background: Background, key: Array | None, dtype) -> Array:
    """rgb [3] of one view: white without a key, as scores and exports compare on it;
    "random": drawn from the key."""
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


def check_losses(losses: Mapping[str, float] | None, known: Collection[str]) -> None:
    """Raises ValueError for a regulariser that is not among the known ones."""
    unknown = sorted(set(losses or {}) - set(known))
    if unknown:
        raise ValueError(
            f"losses: unknown {', '.join(unknown)}; allowed are "
            f"{', '.join(sorted(known))}"
        )
