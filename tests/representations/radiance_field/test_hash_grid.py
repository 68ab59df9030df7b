"""The hash grid against a slow reference in float64, written out corner by corner."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64

from sdsjax.representations.radiance_field import hash_grid
from sdsjax.representations.radiance_field.hash_grid import (
    band_weights,
    init_tables,
    make_grid,
)

# dense levels of 4, 8 and 16 nodes a side, hashed ones above: 2^12 = 16^3 rows
GRID = {"levels": 5, "features": 2, "log2_size": 12, "base": 4, "growth": 2.0}
COUNT = 20
# tiny-cuda-nn's (instant-ngp, eq. 4)
PRIMES = (1, 2654435761, 805459861)
_encode = jax.jit(hash_grid.encode, static_argnames=("grid", "active"))


def encode(*arguments, **settings):
    """As a numpy array, whose arithmetic compiles nothing."""
    return np.asarray(_encode(*arguments, **settings))


def reference(tables, x, *, levels, features, log2_size, base, growth, smooth=False):
    """tiny-cuda-nn's encoding of one point [3], in Python's integers and floats."""
    most, out = 2**log2_size, []
    for level in range(levels):
        scale = base * growth**level - 1
        resolution = math.ceil(scale) + 1
        rows = min(most, -(-(resolution**3) // 8) * 8)
        position = [float(v) * scale + 0.5 for v in x]
        cell = [math.floor(p) for p in position]
        part = [p - c for p, c in zip(position, cell)]
        if smooth:
            part = [f * f * (3 - 2 * f) for f in part]
        total = np.zeros(features)
        for corner in np.ndindex(2, 2, 2):
            at = [c + d for c, d in zip(cell, corner)]
            if resolution**3 <= most:
                index = at[0] + at[1] * resolution + at[2] * resolution**2
            else:
                hashed = [(c * p) % 2**32 for c, p in zip(at, PRIMES)]
                index = hashed[0] ^ hashed[1] ^ hashed[2]
            weight = math.prod(f if d else 1 - f for f, d in zip(part, corner))
            total += weight * np.asarray(tables[level], np.float64)[index % rows]
        out.append(total)
    return np.concatenate(out)


def large_tables(grid, key=0):
    draw = np.random.default_rng(key).normal
    return tuple(
        draw(size=(level.rows, grid.features)).astype(np.float32)
        for level in grid.levels
    )


def points(count=COUNT, seed=0):
    # with the corners of the cube: there an index runs over the end of its table
    inner = np.random.default_rng(seed).random((count - 8, 3))
    return np.concatenate([inner, np.array(list(np.ndindex(2, 2, 2)), float)])


def test_levels_are_those_of_tiny_cuda_nn():
    grid = make_grid(**GRID)
    assert [level.scale for level in grid.levels] == [3, 7, 15, 31, 63]
    assert [level.resolution for level in grid.levels] == [4, 8, 16, 32, 64]
    assert [level.rows for level in grid.levels] == [64, 512, 4096, 4096, 4096]
    assert [level.hashed for level in grid.levels] == [False] * 3 + [True] * 2
    # instant-ngp's own grid: 16 to 4096 cells a side; 6^3 = 216 is 27 rows of 8
    finest = make_grid(
        levels=16, log2_size=19, base=16, growth=1.4472692374403782
    ).levels[-1]
    assert (finest.resolution, finest.rows, finest.hashed) == (4096, 2**19, True)
    assert make_grid(levels=1, base=6).levels[0].rows == 216
    assert make_grid(levels=1, base=5).levels[0].rows == 128  # 125, rounded up


@pytest.mark.parametrize("smooth", [False, True])
def test_values_equal_the_reference(smooth):
    settings = {**GRID, "smooth": smooth}
    grid = make_grid(**settings)
    tables, x = large_tables(grid), points()
    want = np.stack([reference(tables, p, **settings) for p in x])
    got = encode(tables, x.astype(np.float32), grid)
    assert got.dtype == jnp.float32
    # a position of 64 cells keeps 2^-18 of a cell in float32; features are of order 1
    np.testing.assert_allclose(got, want, atol=6e-5)


def test_gradients_equal_finite_differences_of_the_reference():
    grid = make_grid(**GRID)
    tables = tuple(a.astype(np.float64) for a in large_tables(grid))
    rng = np.random.default_rng(2)
    x, pull = rng.random((4, 3)), rng.normal(size=(4, grid.width))
    with enable_x64(True):

        def total(tables, x):
            return jnp.sum(pull * hash_grid.encode(tables, x, grid))

        slopes = jax.jit(jax.grad(total, argnums=(0, 1)))(tables, x)
        slope_tables, slope_x = jax.device_get(slopes)

    def slow(x):
        rows = [reference(tables, p, **GRID) for p in x]
        return float(np.sum(pull * np.stack(rows)))

    h = 1e-6  # far from the faces of cells: linear along an axis
    for axis in range(3):
        for row in range(4):
            moved = np.zeros_like(x)
            moved[row, axis] = h
            want = (slow(x + moved) - slow(x - moved)) / (2 * h)
            np.testing.assert_allclose(slope_x[row, axis], want, rtol=1e-5, atol=1e-5)
    # linear in the tables: the gradient's product with any tables is the value there
    for level in range(len(tables)):
        inner = np.sum(slope_tables[level] * tables[level])
        alone = [t if i == level else 0 * t for i, t in enumerate(tables)]
        value = sum(pull[i] @ reference(alone, p, **GRID) for i, p in enumerate(x))
        np.testing.assert_allclose(inner, value, rtol=1e-9)
        assert np.count_nonzero(np.abs(slope_tables[level]).sum(axis=1)) <= 4 * 8


@pytest.mark.parametrize("smooth", [pytest.param(False, marks=pytest.mark.slow), True])
def test_slopes_are_differences_of_the_reference_and_have_their_own_gradient(smooth):
    """Values and slopes against the loop; gradients of both, for the tables and for the
    points, against differences of the function itself; float64."""
    # a dense level and a hashed one
    settings = {**GRID, "levels": 2, "log2_size": 8, "smooth": smooth}
    grid, rng = make_grid(**settings), np.random.default_rng(3)
    assert [level.hashed for level in grid.levels] == [False, True]
    tables = tuple(a.astype(np.float64) for a in large_tables(grid))
    x, h = rng.random((4, 3)), 1e-6
    pull = rng.normal(size=(4, 4, grid.width))
    band = np.array([0.5, 2.0])

    def slow(x):
        rows = [reference(tables, p, **settings) for p in x]
        return np.stack(rows) * np.repeat(band, 2)

    def total(tables, x):
        value, slopes = hash_grid.encode_with_jacobian(
            tables, x, grid, level_weights=jnp.asarray(band)
        )
        pulled = jnp.sum(pull[0] * value) + jnp.sum(pull[1:] * slopes)
        return pulled, (value, slopes)

    with enable_x64(True):
        # one program for what is asked at every place
        look_up = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
        at = lambda tables, x: look_up(tables, x)[0][0].item()  # noqa: E731
        (here, (value, slopes)), gradient = jax.device_get(look_up(tables, x))
        np.testing.assert_allclose(value, slow(x), atol=1e-12)
        for i, step in enumerate(h * np.eye(3)):
            want = (slow(x + step) - slow(x - step)) / (2 * h)
            np.testing.assert_allclose(slopes[i], want, rtol=1e-4, atol=1e-5)
        # both are linear in the tables
        inner = sum(np.vdot(a, b) for a, b in zip(gradient[0], tables))
        np.testing.assert_allclose(inner, here, rtol=1e-10)
        ways = [rng.normal(size=a.shape) for a in tables]
        moved = [a + b for a, b in zip(tables, ways)]
        inner = sum(np.vdot(a, b) for a, b in zip(gradient[0], ways))
        want = at(tuple(moved), x) - here
        np.testing.assert_allclose(inner, want, rtol=1e-9)
        way = rng.normal(size=x.shape)
        want = (at(tables, x + h * way) - at(tables, x - h * way)) / (2 * h)
        np.testing.assert_allclose(np.vdot(gradient[1], way), want, rtol=1e-4)


def test_slopes_are_zero_outside_the_cube():
    grid = make_grid(levels=2, log2_size=8)
    look_up = jax.jit(hash_grid.encode_with_jacobian, static_argnums=2)
    x = np.float32([[0.3, 1.2, 0.6], [-0.1, 0.4, 0.5]])
    _, slopes = look_up(large_tables(grid), x, grid)
    zero = np.abs(np.asarray(slopes)).max(axis=-1) == 0
    np.testing.assert_array_equal(zero.T, [[False, True, False], [True, False, False]])


def test_cells_meet_without_a_step():
    """Both sides of a face, at every level: the difference is of the step's order."""
    grid = make_grid(**GRID)
    tables = large_tables(grid)
    below = []
    for level in grid.levels:
        face = (np.array([1, 2, 1]) - 0.5) / level.scale
        below += [face - 1e-5 * axis for axis in np.eye(3)]
    # padded to COUNT, for which there is a program
    below = np.resize(below, (COUNT, 3)).astype(np.float32)
    above = below + 2e-5 * np.resize(np.eye(3, dtype=np.float32), (COUNT, 3))
    step = encode(tables, above, grid) - encode(tables, below, grid)
    # slopes are at most 63 cells a unit times the difference of two rows, below 8
    assert np.abs(step).max() < 2e-5 * 63 * 8
    assert np.abs(step).max() > 1e-4
    # at a node exactly the table's row
    node = np.full((COUNT, 3), [0.5 / 3, 1.5 / 3, 2.5 / 3], np.float32)
    first = encode(tables, node, grid)[0, :2]
    np.testing.assert_allclose(first, tables[0][1 + 4 * 2 + 16 * 3], atol=1e-5)


def test_smooth_cells_have_no_kink():
    grid = make_grid(**{**GRID, "levels": 1, "smooth": True})
    tables = large_tables(grid)
    slope = jax.jit(jax.grad(lambda x: _encode(tables, x, grid).sum()))
    for offset in (-1e-5, 1e-5):
        got = np.asarray(slope(np.float32([1.5 / 3 + offset, 0.4, 0.6])))
        assert abs(got[0]) < 1e-2
        assert abs(got[1]) > 1e-2


def test_points_outside_are_clipped_and_empty_levels_are_zero():
    grid = make_grid(**GRID)
    tables = large_tables(grid)
    x = np.float32(3 * points() - 1)
    inside = np.clip(x, 0, 1)
    np.testing.assert_array_equal(encode(tables, x, grid), encode(tables, inside, grid))
    whole, part = encode(tables, x, grid), encode(tables, x, grid, active=2)
    np.testing.assert_array_equal(part[:, :4], whole[:, :4])
    np.testing.assert_array_equal(part[:, 4:], 0)
    weights = np.float32([1.0, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(encode(tables, x, grid, level_weights=weights), part)


def test_the_band_opens_one_level_after_the_other():
    band = jax.jit(lambda step: band_weights(step, 5, first=2, start=100, every=50))
    np.testing.assert_allclose(band(0), [1, 1, 0, 0, 0])
    np.testing.assert_allclose(band(100), [1, 1, 0, 0, 0])
    np.testing.assert_allclose(band(125), [1, 1, 0.5, 0, 0])
    np.testing.assert_allclose(band(150), [1, 1, 1, 0, 0])
    np.testing.assert_allclose(band(10_000), 1)


def test_tables_begin_small_and_in_float32():
    grid = make_grid(levels=3, log2_size=10)
    tables = jax.jit(init_tables, static_argnums=1)(jax.random.key(0), grid)
    assert [t.shape for t in tables] == [(level.rows, 2) for level in grid.levels]
    assert {t.dtype for t in tables} == {jnp.dtype("float32")}
    assert 0.9e-4 < max(np.abs(np.asarray(t)).max() for t in tables) <= 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 0}, "levels = 0 must be in 1..32"),
        ({"log2_size": 30}, "log2_size = 30"),
        ({"growth": 0.5}, "growth = 0.5"),
        ({"levels": 16, "growth": 4.0}, "finest level.*lower levels or growth"),
    ],
)
def test_bad_input_is_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_grid(**settings)
    assert "\n" not in str(caught.value)
