"""Lists which splats touch which tile, in depth order, under static shapes.

Notation: V views of n splats each; the screen has T = rows * columns square tiles of
`size` pixels. Splats are sorted by depth once. Every (splat, tile) pair is an
intersection; a buffer holds `capacity` of them a view. Where a view has more, its
splats are cut in depth order into slabs that fit, and the compositor visits slab after
slab, front to back: overflow costs another pass, never a splat. Pairs are laid out over
each splat's box of tiles; those whose tile the ellipse alpha >= 1/255 misses are then
left out of the lists (StopThePop, arXiv 2402.00525; Speedy-Splat, arXiv 2412.00578).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax.render.splatting.project import MIN_ALPHA, Splats

Array = jax.Array


class TileGrid(NamedTuple):
    """The tiles of a screen (static): image width and height, tile size, all px."""

    width: int
    height: int
    size: int

    @property
    def columns(self) -> int:
        """The number of tiles beside one another."""
        return -(-self.width // self.size)

    @property
    def rows(self) -> int:
        """The number of tiles above one another."""
        return -(-self.height // self.size)

    @property
    def tiles(self) -> int:
        """The number of all tiles."""
        return self.columns * self.rows


class Footprints(NamedTuple):
    """Splats in depth order (rank), and the tiles that they cover.

    order [V n]: rank -> splat; low, span [V n 2]: first tile and tile counts (x, y);
    count [V n]: tiles of the box (0 for a hidden splat); ellipse [V n 6]: mean px,
    conic (A, B, C), and the sigma where alpha is 1/255.
    """

    order: Array
    low: Array
    span: Array
    count: Array
    ellipse: Array


class TileLists(NamedTuple):
    """The lists of one slab.

    ids [V capacity]: splats grouped by tile, each tile in depth order; start [V T + 1]:
    where each tile's run begins; total [V]: how many are listed.
    """

    ids: Array
    start: Array
    total: Array


def footprints(splats: Splats, grid: TileGrid) -> Footprints:
    """Sorts the splats [V n ...] by depth and finds the tiles that each one covers."""
    hidden = splats.extent[..., 0] < 0
    # Pixel i's centre lies at i + 0.5; clipping first keeps the integers in range.
    limit = jnp.array([grid.width, grid.height], splats.mean.dtype)
    first = jnp.ceil(splats.mean - splats.extent - 0.5)
    last = jnp.floor(splats.mean + splats.extent - 0.5)
    first = jnp.clip(first, 0, limit).astype(jnp.int32)
    last = jnp.clip(last, -1, limit - 1).astype(jnp.int32)
    low = first // grid.size
    span = jnp.where(last >= first, last // grid.size + 1 - low, 0)
    span = jnp.where(hidden[..., None], 0, span)
    shown = jnp.prod(span, axis=-1, dtype=jnp.int32) > 0
    depth = jnp.where(shown, splats.depth, jnp.inf)
    order = _depth_order(depth)
    low, span = (_take_rows(a, order) for a in (low, span))
    count = jnp.prod(span, axis=-1, dtype=jnp.int32)
    reach = splats.log_opacity - math.log(MIN_ALPHA)
    ellipse = jnp.concatenate([splats.mean, splats.conic, reach[..., None]], axis=-1)
    return Footprints(order, low, span, count, _take_rows(ellipse, order))


def _depth_order(depth: Array) -> Array:
    """The permutation [V n] that sorts depths [V n] >= 0; of equal ones the first stays
    first.

    Positive floats order as their bits, and on a CPU XLA sorts one uint32 four times
    faster than a key and a payload: so as many of the lowest bits as a splat's position
    leaves room for are sorted together with it, then the next ones, until all are.
    """
    n = depth.shape[-1]
    order = jnp.broadcast_to(jnp.arange(n, dtype=jnp.uint32), depth.shape)
    if depth.dtype != jnp.float32:
        order = lax.sort((depth, order), dimension=-1, num_keys=1, is_stable=True)[1]
        return order.astype(jnp.int32)
    bits = lax.bitcast_convert_type(depth, jnp.uint32)
    place = max(n - 1, 1).bit_length()
    place_mask, digit = jnp.uint32((1 << place) - 1), 32 - place
    for done in range(0, 31, digit):  # the sign's bit is 0
        key = _take_rows((bits >> done)[..., None], order)[..., 0] << place
        key |= jnp.arange(n, dtype=jnp.uint32)
        key = lax.sort(key, dimension=-1, is_stable=False) & place_mask
        order = _take_rows(order[..., None], key)[..., 0]
    return order.astype(jnp.int32)


def _take_rows(table: Array, index: Array) -> Array:
    """Rows index [V m] (all in range) of a table [V n c]."""
    return jnp.take_along_axis(
        table, index[..., None], axis=-2, mode="promise_in_bounds"
    )


def meets_tile(ellipse: Array, column: Array, row: Array, size: int) -> Array:
    """Says whether the ellipse [... 6] reaches a pixel centre of a tile [...].

    sigma is convex: unless the mean lies inside, its least value over the rectangle of
    pixel centres is on one of the two edges that face the mean.
    """
    x, y, a, b, c, reach = (ellipse[..., i] for i in range(6))
    left, top = (at.astype(x.dtype) * size + 0.5 for at in (column, row))
    low, high = (left - x, top - y), (left - x + (size - 1), top - y + (size - 1))
    # Zero area: a conic without an entry is that of a hidden splat.
    inverse_a, inverse_c = (1 / jnp.where(v > 0, v, 1) for v in (a, c))
    near_x, near_y = (jnp.clip(jnp.zeros_like(x), low[i], high[i]) for i in (0, 1))
    along_y = jnp.clip(-b * near_x * inverse_c, low[1], high[1])
    along_x = jnp.clip(-b * near_y * inverse_a, low[0], high[0])
    least, size_of_terms = jnp.full_like(x, jnp.inf), jnp.zeros_like(x)
    for dx, dy in ((near_x, along_y), (along_x, near_y)):
        square = 0.5 * (a * dx * dx + c * dy * dy)
        least = jnp.minimum(least, square + b * dx * dy)
        size_of_terms = jnp.maximum(size_of_terms, square)
    # Terms cancel: rounding, here or in the compositor, must not lose a pair.
    return least <= reach + 1e-2 + 2e-6 * size_of_terms


def tile_lists(
    footprints: Footprints, begin: Array, grid: TileGrid, capacity: int
) -> tuple[TileLists, Array]:
    """Makes the slab that starts at ranks begin [V], and the next one's ranks.

    capacity: at least grid.tiles, so that every slab takes at least one splat.
    """
    n = footprints.order.shape[-1]
    rank = jnp.arange(n, dtype=jnp.int32)
    ends = _bounded_cumsum(
        jnp.where(rank >= begin[:, None], footprints.count, 0), grid.tiles, capacity
    )
    stop = jnp.sum(ends <= capacity, axis=-1, dtype=jnp.int32)
    total = jnp.max(jnp.where(rank < stop[:, None], ends, 0), axis=-1)

    slot = jnp.arange(capacity, dtype=jnp.int32)
    owner = jax.vmap(
        lambda e: jnp.cumsum(jnp.zeros(capacity, jnp.int32).at[e].add(1, mode="drop"))
    )(ends)
    owner = jnp.minimum(owner, n - 1)
    low = footprints.low[..., 0] + grid.columns * footprints.low[..., 1]
    boxes = jnp.stack([low, footprints.span[..., 0], ends - footprints.count], axis=-1)
    boxes, ellipse = (_take_rows(a, owner) for a in (boxes, footprints.ellipse))
    low, span, first = (boxes[..., i] for i in range(3))
    local, span = slot - first, jnp.maximum(span, 1)
    # Integer division is slow; of floats it is safe half a step away from integers
    # (below 2^20 tiles).
    down = (local.astype(jnp.float32) + 0.5) / span.astype(jnp.float32)
    down = down.astype(jnp.int32)
    tile = low + (local - down * span) + grid.columns * down
    listed = meets_tile(ellipse, tile % grid.columns, tile // grid.columns, grid.size)
    listed &= slot < total[:, None]
    tile = jnp.where(listed, tile, grid.tiles)
    tile, owner = _sort_by_tile(tile, owner, grid.tiles, n)
    edges = jnp.arange(grid.tiles + 1, dtype=jnp.int32)
    start = jax.vmap(lambda t: jnp.searchsorted(t, edges).astype(jnp.int32))(tile)
    ids = _take_rows(footprints.order[..., None], owner)[..., 0]
    return TileLists(ids, start, start[:, -1]), stop


def _sort_by_tile(tile: Array, rank: Array, tiles: int, n: int) -> tuple[Array, Array]:
    """Sorts (tile, rank) pairs [V capacity]; within a tile by rank."""
    if (tiles + 1) * n < 2**32:
        # One uint32 operand: about four times faster than a key and a payload.
        key = tile.astype(jnp.uint32) * n + rank.astype(jnp.uint32)
        key = lax.sort(key, dimension=-1, is_stable=False)
        return (key // n).astype(jnp.int32), (key % n).astype(jnp.int32)
    key = tile.astype(jnp.uint32)
    key, rank = lax.sort((key, rank), dimension=-1, num_keys=1, is_stable=True)
    return key.astype(jnp.int32), rank


def _bounded_cumsum(count: Array, largest: int, capacity: int) -> Array:
    """Cumulative sum [V n], saturating above capacity where int32 could overflow."""
    if count.shape[-1] * largest < 2**31:
        return jnp.cumsum(count, axis=-1, dtype=jnp.int32)
    # Saturating addition of non-negative numbers is associative.
    add = lambda a, b: jnp.minimum(a + b, capacity + 1)  # noqa: E731
    return lax.associative_scan(add, count, axis=-1)
