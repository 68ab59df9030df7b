"""Front-to-back compositing of tile lists, and its gradient recomputed in that order.

Notation, for one pixel and its splats k in depth order: alpha_k = min(exp(log_opacity -
sigma_k), max_alpha), 0 below 1/255; T_k = prod_{j<k} (1 - alpha_j); weight w_k =
alpha_k T_k while T_{k+1} > 1e-4, else 0 (a prefix: T never grows). Output, for channel
c: F_c = sum_k w_k f_kc, the last channel being f = 1, so that F holds the opacity.
Gradient, with v the cotangent of F, s_k = sum_c v_c f_kc and L_k = sum_{j<=k} w_j s_j:
v_alpha_k = T_k s_k - (L_n - L_k) / (1 - alpha_k), where L_n = sum_c v_c F_c is known
before the pass starts. v_sigma = -alpha v_alpha is summed against [1, x, y, x^2, x y,
y^2] in pixels from the tile's centre: six moments give every geometric gradient.

Layout: tiles sorted by list length, taken in groups of B in lockstep, K splats a step:
arrays [B K P] with P pixels a tile. Rows of the table: (x, y, A, B, C, log_opacity,
f...), see project.py; they are laid out by tile once a slab, so that a step reads runs
of memory. Everything here is plain XLA.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sdsjax.render.splatting.binning import TileGrid, TileLists
from sdsjax.render.splatting.project import LOG_ZERO, MIN_ALPHA

Array = jax.Array

MIN_TRANSMITTANCE = 1e-4
GEOMETRY = 6


class RasterPlan(NamedTuple):
    """The static choices of a rasterisation.

    grid: the tiles; capacity: intersections a view and slab; max_alpha;
    tiles_per_group: in lockstep, B; splats_per_step: K; kernel: what composites, of
    rasterize.KERNELS ("xla" is this module, which alone minds B and K).
    """

    grid: TileGrid
    capacity: int
    max_alpha: float
    tiles_per_group: int
    splats_per_step: int
    kernel: str = "xla"


class TileGroups(NamedTuple):
    """The tiles of all views, longest list first, in groups.

    tile [G B]: index into [V T] (V T: padding); start and count [G B]: into ListedRows;
    centre [G B 2] px.
    """

    tile: Array
    start: Array
    count: Array
    centre: Array


class ListedRows(NamedTuple):
    """All lists one after the other, and K slots that nobody reads to the end of.

    ids [V capacity + K]: of table rows; rows [V capacity + K, 6 + C]: those rows.
    """

    ids: Array
    rows: Array


def pixel_offsets(grid: TileGrid) -> np.ndarray:
    """Returns pixel centres [P 2] (x, y) from their tile's centre, row by row."""
    along = np.arange(grid.size) + 0.5 - grid.size / 2
    y, x = np.meshgrid(along, along, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def tile_centres(grid: TileGrid) -> np.ndarray:
    """Returns the centres [T 2] (x, y) of the tiles, px."""
    y, x = np.meshgrid(np.arange(grid.rows), np.arange(grid.columns), indexing="ij")
    return (np.stack([x.ravel(), y.ravel()], axis=-1) + 0.5) * grid.size


def list_rows(table: Array, lists: TileLists, plan: RasterPlan) -> ListedRows:
    """Returns the rows of the table [V n 6 + C] in the order of the lists."""
    views, n = table.shape[:2]
    shift = jnp.arange(views, dtype=jnp.int32)[:, None]
    ids = jnp.pad((lists.ids + shift * n).reshape(-1), (0, plan.splats_per_step))
    flat = table.reshape(views * n, -1)
    return ListedRows(ids, flat.at[ids].get(mode="promise_in_bounds"))


def group_tiles(lists: TileLists, plan: RasterPlan, dtype) -> TileGroups:
    """Flattens the lists of V views, sorts their tiles by length and groups them."""
    views, capacity = lists.ids.shape
    shift = jnp.arange(views, dtype=jnp.int32)[:, None]
    count = (lists.start[:, 1:] - lists.start[:, :-1]).reshape(-1)
    start = (lists.start[:, :-1] + shift * capacity).reshape(-1)
    centre = np.tile(tile_centres(plan.grid), (views, 1))
    group = min(plan.tiles_per_group, count.size)
    padding = -count.size % group
    tile = jnp.argsort(-jnp.pad(count, (0, padding)), stable=True).astype(jnp.int32)
    take = lambda a: jnp.asarray(a).at[tile].get(mode="fill", fill_value=0)  # noqa: E731
    split = lambda a: a.reshape(-1, group, *a.shape[1:])  # noqa: E731
    return TileGroups(
        tile=split(tile),
        start=split(take(start)),
        count=split(take(count)),
        centre=split(take(centre.astype(dtype))),
    )


def forward_slab(table: Array, lists: TileLists, carry, plan: RasterPlan):
    """Composites one slab onto carry = (T [V tiles P], F [V tiles C P])."""
    listed = list_rows(table, lists, plan)
    work = group_tiles(lists, plan, table.dtype)

    def group(_, inputs):
        tiles, state = inputs

        def step(chunk, state):
            transmittance, total = state
            rows, _ = _read_chunk(listed, tiles, chunk, plan)
            alpha, _ = _alphas(rows, tiles.centre, plan)
            before, transmittance = _exclusive_scan(
                jnp.multiply, 1, 1 - alpha, transmittance
            )
            weight = _weights(alpha, before)
            features = jnp.swapaxes(_features(rows), 1, 2)
            total += _contract("bck,bkp->bcp", features, weight)
            return transmittance, total

        return None, _run_chunks(tiles, step, state, plan)

    return _scan_groups(group, work, carry)


def backward_slab(
    table: Array, lists: TileLists, carry, cotangent, total_sum, plan: RasterPlan
):
    """Adds one slab's gradient to carry = (T, L [V tiles P], v_table [V n 6 + C]).

    cotangent [V tiles C P] of F; total_sum [V tiles P]: L_n.
    """
    views, n = table.shape[:2]
    listed = list_rows(table, lists, plan)
    work = group_tiles(lists, plan, table.dtype)
    offsets = pixel_offsets(plan.grid).astype(table.dtype)
    x, y = offsets[:, 0], offsets[:, 1]
    powers = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)

    def group(v_flat, inputs):
        tiles, (transmittance, running_sum, v, end) = inputs

        def step(chunk, state):
            transmittance, running_sum, v_flat = state
            rows, used = _read_chunk(listed, tiles, chunk, plan)
            alpha, free = _alphas(rows, tiles.centre, plan)
            before, transmittance = _exclusive_scan(
                jnp.multiply, 1, 1 - alpha, transmittance
            )
            weight = _weights(alpha, before)
            share = _contract("bkc,bcp->bkp", _features(rows), v)
            terms = weight * share
            sums, running_sum = _exclusive_scan(jnp.add, 0, terms, running_sum)
            v_alpha = before * share - (end[:, None] - sums - terms) / (1 - alpha)
            v_sigma = jnp.where((weight > 0) & free, -alpha * v_alpha, 0)
            moments = _contract("bkp,pm->bkm", v_sigma, jnp.asarray(powers))
            v_rows = _row_gradients(rows, tiles.centre, moments)
            v_features = _contract("bkp,bcp->bkc", weight, v)[..., :-1]
            v_rows = jnp.concatenate([v_rows, v_features], axis=-1)
            # Empty slots carry the index V n: dropped.
            ids = jnp.where(
                used, _slice_lists(listed.ids, tiles, chunk, plan), views * n
            )
            return transmittance, running_sum, v_flat.at[ids].add(v_rows, mode="drop")

        transmittance, running_sum, v_flat = _run_chunks(
            tiles, step, (transmittance, running_sum, v_flat), plan
        )
        return v_flat, (transmittance, running_sum)

    transmittance, running_sum, v_table = carry
    v_flat = v_table.reshape(views * n, -1)
    (transmittance, running_sum), v_flat = _scan_groups(
        group, work, (transmittance, running_sum), (cotangent, total_sum), v_flat
    )
    return transmittance, running_sum, v_flat.reshape(v_table.shape)


def _scan_groups(group, work: TileGroups, carry, constants=(), across=None):
    """Scans groups; carry and constants are [V tiles ...], `across` passes through."""
    tile = work.tile
    shape = carry[0].shape[:2]
    merge = lambda a: a.reshape(-1, *a.shape[2:])  # noqa: E731
    gathered = jax.tree.map(
        lambda a: merge(a).at[tile].get(mode="fill", fill_value=0), (*carry, *constants)
    )
    across, after = lax.scan(group, across, (work, gathered))
    # Every real tile occurs once; padding holds an index past the end.
    after = jax.tree.map(
        lambda a: (
            jnp.zeros((shape[0] * shape[1], *a.shape[2:]), a.dtype)
            .at[tile.reshape(-1)]
            .set(merge(a), mode="drop", unique_indices=True)
            .reshape(*shape, *a.shape[2:])
        ),
        after,
    )
    return after if across is None else (after, across)


def _run_chunks(tiles: TileGroups, step, state, plan: RasterPlan):
    """Runs step(chunk, state) as often as the group's longest list needs."""
    last = (jnp.max(tiles.count) + plan.splats_per_step - 1) // plan.splats_per_step
    body = lambda loop: (loop[0] + 1, step(loop[0], loop[1]))  # noqa: E731
    return lax.while_loop(lambda loop: loop[0] < last, body, (jnp.int32(0), state))[1]


def _slice_lists(
    array: Array, tiles: TileGroups, chunk: Array, plan: RasterPlan
) -> Array:
    """[B K ...]: each tile's K slots of a chunk, from an array laid out by tile."""
    begin = tiles.start + chunk * plan.splats_per_step
    cut = lambda first: lax.dynamic_slice_in_dim(array, first, plan.splats_per_step)  # noqa: E731
    if len(begin) > 64:
        return jax.vmap(cut)(begin)
    # one by one: on a CPU four times faster than the gather that vmap makes of it
    return jnp.stack([cut(begin[b]) for b in range(len(begin))])


def _read_chunk(listed: ListedRows, tiles: TileGroups, chunk: Array, plan: RasterPlan):
    """Table rows [B K 6 + C] of one chunk, empty slots transparent, and which slots
    [B K] are used."""
    slot = chunk * plan.splats_per_step + jnp.arange(
        plan.splats_per_step, dtype=jnp.int32
    )
    used = slot < tiles.count[:, None]
    rows = _slice_lists(listed.rows, tiles, chunk, plan)
    log_opacity = jnp.where(used, rows[..., 5], LOG_ZERO)
    rows = jnp.concatenate(
        [rows[..., :5], log_opacity[..., None], rows[..., 6:]], axis=-1
    )
    return rows, used


def _alphas(rows: Array, centre: Array, plan: RasterPlan) -> tuple[Array, Array]:
    """alpha [B K P], and where its gradient flows (not clamped at max_alpha)."""
    size = plan.grid.size
    along = jnp.asarray(np.arange(size) + 0.5 - size / 2, rows.dtype)
    dx, dy = (along - (rows[..., i] - centre[:, None, i])[..., None] for i in (0, 1))
    a, b, c, log_opacity = (rows[..., i, None] for i in range(2, GEOMETRY))
    # What a pixel's column or row alone decides is computed once for it.
    by_column = log_opacity - 0.5 * a * dx * dx
    by_row = 0.5 * c * dy * dy
    by_both = (b * dx)[..., None, :] * dy[..., None]
    raw = jnp.exp(by_column[..., None, :] - by_row[..., None] - by_both)
    raw = raw.reshape(*rows.shape[:-1], size**2)
    alpha = jnp.where(raw >= MIN_ALPHA, jnp.minimum(raw, plan.max_alpha), 0)
    return alpha, alpha < plan.max_alpha


def _weights(alpha: Array, before: Array) -> Array:
    weight = alpha * before
    return jnp.where(before - weight > MIN_TRANSMITTANCE, weight, 0)


def _exclusive_scan(combine, identity: float, values: Array, start: Array):
    """Exclusive scan of values [B K P] along K, begun at start [B P]; and its end.

    Two levels of select chains: three fused kernels, 0.2 ns a value on a CPU. There,
    an unrolled loop recomputes its prefix K times over, and associative_scan, cumprod
    and fori_loop take 0.4 to 1.1 ns.
    """
    tiles, chunk, pixels = values.shape
    run = next(d for d in (4, 2, 1) if chunk % d == 0)
    split = values.reshape(tiles, chunk // run, run, pixels)
    one = jnp.full((tiles, chunk // run, 1, pixels), identity, values.dtype)
    inner = _prefixes(combine, one, split, 2)
    outer = _prefixes(combine, start[:, None], inner[-1][:, :, 0], 1)
    before = combine(
        _stack_by_select(outer[:-1], 1)[:, :, None], _stack_by_select(inner[:-1], 2)
    )
    return before.reshape(values.shape), outer[-1][:, 0]


def _prefixes(combine, first: Array, values: Array, axis: int) -> list[Array]:
    """[first, first + v_0, first + v_0 + v_1, ...], each of extent 1 along axis."""
    prefixes = [first]
    for i in range(values.shape[axis]):
        item = lax.slice_in_dim(values, i, i + 1, axis=axis)
        prefixes.append(combine(prefixes[-1], item))
    return prefixes


def _stack_by_select(parts: list[Array], axis: int) -> Array:
    """Concatenates parts of extent 1 along axis, as selects: these fuse."""
    shape = [1] * parts[0].ndim
    shape[axis] = len(parts)
    index = lax.broadcasted_iota(jnp.int32, shape, axis)
    laid = parts[-1]
    for i in reversed(range(len(parts) - 1)):
        laid = jnp.where(index == i, parts[i], laid)
    return laid


def _features(rows: Array) -> Array:
    """Channels [B K C] of the rows, the constant 1 appended."""
    one = jnp.ones((*rows.shape[:-1], 1), rows.dtype)
    return jnp.concatenate([rows[..., GEOMETRY:], one], axis=-1)


def _contract(spec: str, left: Array, right: Array) -> Array:
    return jnp.einsum(spec, left, right, precision=lax.Precision.HIGHEST)


def _row_gradients(rows: Array, centre: Array, moments: Array) -> Array:
    """Gradients [B K 6] of (x, y, A, B, C, log_opacity) from moments [B K 6]."""
    x, y = (rows[..., i] - centre[:, None, i] for i in range(2))
    a, b, c = (rows[..., i] for i in range(2, 5))
    m, mx, my, mxx, mxy, myy = (moments[..., i] for i in range(6))
    # Moments about the splat's own mean.
    dx, dy = mx - x * m, my - y * m
    dxx = mxx - x * (mx + dx)
    dxy = mxy - x * my - y * dx
    dyy = myy - y * (my + dy)
    v_x, v_y = -(a * dx + b * dy), -(c * dy + b * dx)
    return jnp.stack([v_x, v_y, 0.5 * dxx, dxy, 0.5 * dyy, -m], axis=-1)
