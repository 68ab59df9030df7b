"""Weights of a representation's regularisers: their check and their weighted sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

Array = jax.Array


def check_losses(losses: Mapping[str, float] | None, known: Collection[str]) -> None:
    """Raises ValueError for a regulariser that is not among the known ones."""
    unknown = sorted(set(losses or {}) - set(known))
    if unknown:
        raise ValueError(
            f"losses: unknown {', '.join(unknown)}; allowed are "
            f"{', '.join(sorted(known))}"
        )


def nonzero_weights(losses: Mapping[str, float] | None) -> dict[str, float]:
    """Returns the losses whose weight is not 0, by name."""
    return {name: weight for name, weight in dict(losses or {}).items() if weight}


def sum_of_terms(terms: dict[str, Array], dtype=None) -> tuple[Array, dict[str, Array]]:
    """Returns (the sum of weighted terms, the terms), as `regularize` has to.

    dtype: of the sum where there are no terms (None: jax's default float).
    """
    return sum(terms.values(), jnp.zeros((), dtype)), terms
