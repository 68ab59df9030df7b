"""Multi-resolution hash encoding of points, with tiny-cuda-nn's conventions.

Notation: x [... 3] in the unit cube; level l = 0 .. L - 1 has scale s_l = N b^l - 1 (N:
`base`, b: `growth`), resolution r_l = ceil(s_l) + 1 and a table [T_l F] of features,
which is dense where r_l^3 <= 2^`log2_size` and hashed otherwise. T_l = min(2^log2_size,
r_l^3 rounded up to a multiple of 8). How one level is looked up: hash_grid_level.py.
Source: instant-ngp (arXiv 2201.05989), eqs. 2-4 and appendix A. Progressive band
(Neuralangelo, arXiv 2306.03092; TP-SDS's and SSD's grids): a weight in [0, 1] a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax.representations.radiance_field.hash_grid_level import (
    GridLevel,
    encode_level,
    encode_level_with_jacobian,
)

Array = jax.Array

# Uniform in +- this, instant-ngp's sec. 4.
INIT_SPAN = 1e-4


class HashGrid(NamedTuple):
    """The static shape of an encoding: its levels, and F features of each.

    smooth: whether cells are blended smoothly.
    """

    levels: tuple[GridLevel, ...]
    features: int
    smooth: bool

    @property
    def width(self) -> int:
        """The length L F of an encoding."""
        return len(self.levels) * self.features


def make_grid(
    *,
    levels: int = 8,
    features: int = 2,
    log2_size: int = 14,
    base: int = 4,
    growth: float = 1.5,
    smooth: bool = False,
) -> HashGrid:
    """Makes a grid whose levels are each `growth` times finer than the one before.

    The coarsest has `base` cells a side. Raises ValueError where a number makes no
    grid.
    """
    for name, value, low, high in (
        ("levels", levels, 1, 32),
        ("features", features, 1, 16),
        ("log2_size", log2_size, 3, 26),
        ("base", base, 2, 4096),
        ("growth", growth, 1.0, 8.0),
    ):
        if not low <= value <= high:
            raise ValueError(f"hash grid: {name} = {value} must be in {low}..{high}")
    finest = base * growth ** (levels - 1)
    # corners times primes wrap as they should, but a float32 position has 24 bits
    if finest > 2**20:
        raise ValueError(
            f"hash grid: the finest level has {finest:.3g} cells a side, more than "
            f"{2**20}: lower levels or growth"
        )
    rows = 2**log2_size
    return HashGrid(
        tuple(_level(base * growth**level - 1, rows) for level in range(levels)),
        features,
        smooth,
    )


def _level(scale: float, max_rows: int) -> GridLevel:
    # 1e-6: base * growth^l that is whole but for rounding gets no cell more
    resolution = math.ceil(scale - 1e-6) + 1
    hashed = resolution**3 > max_rows
    rows = max_rows if hashed else min(max_rows, 8 * math.ceil(resolution**3 / 8))
    return GridLevel(scale, resolution, rows, hashed)


def init_tables(key: Array, grid: HashGrid) -> tuple[Array, ...]:
    """Draws the tables [T_l F] of all levels, uniform in +-1e-4, float32."""
    keys = jax.random.split(key, len(grid.levels))
    return tuple(
        jax.random.uniform(
            key,
            (level.rows, grid.features),
            jnp.float32,
            minval=-INIT_SPAN,
            maxval=INIT_SPAN,
        )
        for key, level in zip(keys, grid.levels)
    )


def encode(
    tables: Sequence[Array],
    x: Array,
    grid: HashGrid,
    *,
    level_weights: Array | None = None,
    active: int | None = None,
) -> Array:
    """Returns the encodings [... L F] of points x [... 3], clipped to the unit cube.

    To be differentiated in reverse mode (forwards: `encode_with_jacobian`).
    level_weights: [L], a factor a level (`band_weights`); active: how many levels are
    looked up at all, the rest being zeros (static: what it leaves out costs nothing).
    """
    active = len(grid.levels) if active is None else active
    x = jnp.clip(x, 0.0, 1.0)
    parts = [
        encode_level(table, x, level, grid.smooth)
        for table, level in zip(tables[:active], grid.levels)
    ]
    parts = _weighted(parts, level_weights)
    if active < len(grid.levels):
        width = grid.features * (len(grid.levels) - active)
        parts.append(jnp.zeros((*x.shape[:-1], width), x.dtype))
    return jnp.concatenate(parts, axis=-1)


def encode_with_jacobian(
    tables: Sequence[Array],
    x: Array,
    grid: HashGrid,
    *,
    level_weights: Array | None = None,
) -> tuple[Array, Array]:
    """Returns (`encode`, its derivatives [3 ... L F] by x) at points x [... 3].

    One look-up serves both, and one scatter their gradient. The derivatives are those
    inside a cell, and 0 outside the unit cube.
    """
    inside = ((x >= 0) & (x <= 1)).astype(x.dtype)
    x = jnp.clip(x, 0.0, 1.0)
    found: Any = [
        encode_level_with_jacobian(table, x, level, grid.smooth)
        for table, level in zip(tables, grid.levels)
    ]
    values = _weighted([value for value, _ in found], level_weights)
    slopes = [
        jnp.concatenate(_weighted([slope[i] for _, slope in found], level_weights), -1)
        * inside[..., i, None]
        for i in range(3)
    ]
    return jnp.concatenate(values, axis=-1), jnp.stack(slopes)


def _weighted(parts: Sequence[Any], level_weights: Array | None) -> list[Array]:
    # each level's features times its weight
    if level_weights is None:
        return list(parts)
    return [p * w.astype(p.dtype) for p, w in zip(parts, level_weights)]


def band_weights(
    step: Array | int, levels: int, *, first: int, start: int, every: int
) -> Array:
    """Returns the weights [L] of a progressive band after `step` updates.

    `first` levels count from the beginning, then one more each `every` steps from
    `start` on, fading in.
    """
    opened = first + jnp.maximum(step - start, 0) / every
    # of a definite type: a weak one would have the training step traced twice
    order = jnp.arange(levels, dtype=jnp.result_type(float))
    return jnp.clip(opened - order, 0.0, 1.0)
