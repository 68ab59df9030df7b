"""Tile lists against a loop in plain Python: complete, ordered, nothing dropped."""

import jax
import numpy as np
import pytest
from splat_scenes import cloud, small_camera

from sdsjax.render.splatting import binning
from sdsjax.render.splatting import project as projection
from sdsjax.render.splatting.binning import TileGrid

_project = jax.jit(projection.project)
footprints = jax.jit(binning.footprints, static_argnums=1)


def project(*arguments):
    return jax.device_get(_project(*arguments))


def listed(splats, grid, capacity):
    """Every tile's splats, in the order of all slabs, and the number of slabs."""
    batch = jax.tree.map(lambda a: a[None], splats)
    prints = footprints(batch, grid)
    build = jax.jit(lambda p, begin: binning.tile_lists(p, begin, grid, capacity))
    shown = np.count_nonzero(prints.count)
    tiles, begin, slabs = [[] for _ in range(grid.tiles)], np.zeros(1, np.int32), 0
    while begin[0] < shown:
        lists, begin = jax.device_get(build(prints, begin))
        start = lists.start[0]
        assert start[-1] == lists.total[0] <= capacity
        for tile in range(grid.tiles):
            tiles[tile] += lists.ids[0, start[tile] : start[tile + 1]].tolist()
        slabs += 1
    return tiles, slabs


def touched(splats, grid):
    """By brute force: the tiles with a pixel whose centre lies in the splat's box, and
    those of them with a pixel where alpha >= 1/255."""
    boxed, needed = ([[] for _ in range(grid.tiles)] for _ in range(2))
    for i in np.argsort(splats.depth, kind="stable"):
        extent, mean = splats.extent[i], splats.mean[i]
        if extent[0] < 0:
            continue
        x, y = np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5
        columns, rows = (
            np.unique(np.nonzero(np.abs(at - mean[i]) <= extent[i])[0] // grid.size)
            for i, at in enumerate((x, y))
        )
        dx, dy = (x - mean[0])[None, :], (y - mean[1])[:, None]
        a, b, c = np.asarray(splats.conic[i], np.float64)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        seen = np.exp(float(splats.log_opacity[i]) - sigma) >= 1 / 255
        for row in rows:
            for column in columns:
                tile = row * grid.columns + column
                boxed[tile].append(int(i))
                at = (slice(k * grid.size, (k + 1) * grid.size) for k in (row, column))
                if seen[tuple(at)].any():
                    needed[tile].append(int(i))
    return boxed, needed


def number(tiles):
    return sum(map(len, tiles))


def assert_complete_and_tight(got, boxed, needed):
    """Nothing needed is missing, nothing outside the box is there, the order is that of
    depth, and few tiles are listed that the ellipse touches between pixel centres."""
    for listed, box, need in zip(got, boxed, needed):
        assert listed == [i for i in box if i in set(listed)]
        assert set(need) <= set(listed)
    assert number(needed) < number(boxed)
    spare = (number(got) - number(needed)) / (number(boxed) - number(needed))
    assert spare < 0.4


@pytest.mark.parametrize("capacity", [4096, 64, 15])
def test_lists_equal_brute_force(capacity):
    splats, grid = project(cloud(40), small_camera()), TileGrid(40, 24, 8)
    got, slabs = listed(splats, grid, capacity)
    boxed, needed = touched(splats, grid)
    assert_complete_and_tight(got, boxed, needed)
    total = number(boxed)
    assert total > 60
    assert slabs >= -(-total // capacity)
    assert (slabs == 1) == (total <= capacity)


def test_a_tile_at_the_rim_may_be_partial():
    grid = TileGrid(width=21, height=9, size=8)
    assert (grid.columns, grid.rows, grid.tiles) == (3, 2, 6)
    camera = small_camera(width=21, height=9)
    splats = project(cloud(20, scale=0.2), camera)
    assert_complete_and_tight(listed(splats, grid, 999)[0], *touched(splats, grid))


@pytest.mark.parametrize("n", [1, 2, 300, 2**16 + 1])
def test_order_is_the_stable_order_of_depths(n):
    # 1, 2 and 3 passes; equal depths, hidden splats at infinity, and 0
    rng = np.random.default_rng(n)
    depth = rng.choice(rng.gamma(2.0, 1.0, n // 2 + 1), (2, n)).astype(np.float32)
    depth[rng.random((2, n)) < 0.2] = np.inf
    depth[:, 0] = 0
    order = jax.jit(binning._depth_order)(depth)
    assert np.array_equal(order, np.argsort(depth, axis=-1, kind="stable"))


def test_two_operand_sort_groups_alike():
    tile = np.random.default_rng(0).integers(0, 7, (2, 50), dtype=np.int32)
    rank = np.tile(np.arange(50, dtype=np.int32), (2, 1))
    sort = jax.jit(binning._sort_by_tile, static_argnums=(2, 3))
    small, large = sort(tile, rank, 6, 50), sort(tile, rank, 2**31, 50)
    for a, b in zip(small, large):
        np.testing.assert_array_equal(a, b)


def test_cumulative_sum_saturates_instead_of_overflowing():
    count = np.full((1, 8), 2**29, np.int32)
    count[0, 0] = 3
    sums = jax.jit(lambda count: binning._bounded_cumsum(count, 2**29, 1000))(count)
    np.testing.assert_array_equal(np.asarray(sums)[0], [3] + [1001] * 7)
