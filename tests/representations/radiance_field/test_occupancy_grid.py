"""What is known to be empty: the grid's rule, slots, and pictures drawn with a mask."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera
from small_field import KEY, blob, in_a_hurry

from sdsjax.representations.radiance_field import active_points, occupancy_grid
from sdsjax.representations.radiance_field.field import NerfState
from sdsjax.types import Rendering

SIDE = 8
occupied_cells = jax.jit(occupancy_grid.occupied_cells)


def centres(side=SIDE):
    """Of all cells, in the unit cube: [r r r 3]."""
    axis = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def cells_near_ball(radius, side=SIDE):
    """Which cells of the cube [-1, 1]^3 come nearer to the origin than a radius."""
    corners = np.abs(2 * centres(side) - 1) - 1 / side
    return np.linalg.norm(np.maximum(corners, 0), axis=-1) < radius


@partial(jax.jit, static_argnames="room")
def there_and_back(mask, values, pull, room):
    """(slots, what they hold, it scattered again, the gradient of that, and that of the
    gather it stands for)."""
    slots = active_points.assign_slots(mask, capacity=room)
    got = active_points.gather_points(slots, values)

    def scattered(values):
        picked = values[slots.slot.reshape(-1)]
        kept = slots.kept.reshape(-1, 1)
        return jnp.where(kept, picked, 0).reshape(5, 6, 2)

    back, mine = jax.vjp(partial(active_points.scatter_points, slots), got)
    return slots, got, back, mine(pull)[0], jax.vjp(scattered, got)[1](pull)[0]


def test_slots_are_taken_from_the_camera_on():
    """By a loop: first points first; what has no room goes without."""
    rng = np.random.default_rng(0)
    mask = rng.random((5, 6)) < 0.5
    values, pull = rng.random((2, 5, 6, 2)).astype(np.float32)
    order = [(r, i) for i in range(6) for r in range(5) if mask[r, i]]
    for room in (4, len(order), 29):
        found = there_and_back(mask, values, pull, room)
        slots, got, back, mine, theirs = jax.device_get(found)
        want = np.zeros((5, 6, 2))
        for slot, (r, i) in enumerate(order[:room]):
            np.testing.assert_array_equal(got[slot], values[r, i])
            want[r, i] = values[r, i]
        np.testing.assert_array_equal(back, want)
        assert slots.kept.sum() == slots.used.sum() == min(room, len(order))
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_the_rule_of_the_grid():
    """All cells at first, a part of them later, at no other time any."""
    depth = partial(jnp.full_like, fill_value=0.0)
    ones = np.ones((SIDE,) * 3, np.float32)

    @jax.jit
    def compiled(step, values):
        return occupancy_grid.update_occupancy(
            lambda x: depth(x[..., 0]), KEY, step, values
        )

    update = lambda *arguments: np.asarray(compiled(*arguments))  # noqa: E731
    for step, share in ((0, 1), (240, 1), (7, 0), (255, 0), (257, 0)):
        want = 0.95 if share else 1.0
        np.testing.assert_allclose(update(step, ones), want, rtol=1e-6)
    later = update(256, ones)
    assert set(np.unique(np.round(later, 4))) == {np.float32(0.95), np.float32(1.0)}
    # two draws of a quarter, with repetition: 1 - (1 - 1/n)^(n/2)
    assert 0.3 < np.mean(later < 1) < 0.48
    # of the occupied ones alone the second draw: one cell among empty ones
    one = np.zeros((SIDE,) * 3, np.float32)
    one[1, 2, 3] = 1.0
    np.testing.assert_allclose(update(272, one)[1, 2, 3], 0.95, rtol=1e-6)


def test_the_threshold_is_the_mean_or_a_hundredth():
    values = np.zeros((2, 2, 2), np.float32)
    # nothing is known: look everywhere
    assert np.asarray(occupied_cells(values)).all()
    values[0, 0, 0] = 0.008
    want = values > 0
    np.testing.assert_array_equal(occupied_cells(values), want)
    values[1, 1, 1], values[1, 0, 0] = 5.0, 0.0099
    values[0, 1, 1] = 0.0105
    want = values > 0.01
    np.testing.assert_array_equal(occupied_cells(values), want)
    place = np.float32(
        [[0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [1.0, 1.0, 1.0], [-1, 2, 0.4]]
    )
    got = jax.jit(occupancy_grid.cells_at)(want, place)
    np.testing.assert_array_equal(got, [False, True, True, False])


@pytest.mark.parametrize(
    "scene", [pytest.param("box", marks=pytest.mark.slow), "contracted"]
)
def test_the_grid_of_a_ball_becomes_that_of_a_ball(scene):
    """By updates alone, from a grid that says otherwise."""
    representation, params, state = blob(
        occupancy=SIDE, scene=scene, blob_scale=500.0, blob_radius=0.5
    )
    control = jax.jit(representation.control)
    wrong = np.where(cells_near_ball(0.5), 0.0, 0.02).astype(np.float32)
    drawn = {"samples": np.ones((1, 2, 2), np.int32)}
    rendering = Rendering(None, None, None, None, drawn)
    state = state._replace(occupancy=wrong)
    for step in range(0, 1600, 16):
        key = jax.random.fold_in(KEY, step)
        same, state, edit = control(key, step, params, state, {"renderings": rendering})
    assert edit.source.size == edit.reset.size == 0
    assert edit.aux["samples"] == 1
    jax.tree.map(np.testing.assert_array_equal, same, params)
    got = np.asarray(occupied_cells(state.occupancy))
    wide = 2 if scene == "contracted" else 1  # cells of the ball of radius 2
    inside = np.linalg.norm(wide * (2 * centres() - 1), axis=-1) < 0.45
    away = ~cells_near_ball(0.55 / wide)
    assert got[inside].all()
    assert not got[away].any()
    assert inside.sum() >= 8
    assert away.sum() > 300


CAMERA = orbit_camera(40.0, 25.0, 3.0, width=7, height=6)


@pytest.fixture(scope="module")
def drawn_with():
    """(cells, room) -> (Rendering, gradient) of a ball, the grid being what it is;
    cells None: without a grid."""
    pull = np.random.default_rng(0).normal(size=(6, 7, 3))

    @cache
    def compiled(room):
        settings = {"coarse": 12, "fine": 12, "blob_scale": 400.0, "chunk": 30}
        grid = {} if room is None else {"occupancy": SIDE, "room": room}
        representation, params, _ = blob(**settings, **grid, view_degree=1)
        color = jax.tree.map(lambda a: 0.1 + 0 * a, params.color)
        params = params._replace(color=color, tables=(0.3 * params.tables[0],))

        def total(params, cells):
            state = NerfState(jnp.ones(1), cells)
            drawn = representation.render(params, state, CAMERA, KEY)
            return jnp.sum(pull * drawn.rgb) + jnp.sum(drawn.depth), drawn

        slope = jax.jit(jax.grad(total, has_aux=True))
        return params, in_a_hurry(slope, params, jnp.ones((SIDE,) * 3))

    def draw(cells, room):
        params, slope = compiled(None if cells is None else room)
        gradient, drawn = slope(
            params, jnp.asarray(cells_near_ball(9) if cells is None else cells, float)
        )
        return jax.device_get((drawn, gradient))

    return draw


@pytest.mark.slow
def test_an_exact_mask_changes_nothing(drawn_with):
    plain, slope = drawn_with(None, 1)
    assert plain.opacity.max() > 0.99
    assert plain.aux == {}
    # softplus(-80) is nothing
    drawn, other = drawn_with(cells_near_ball(0.6), 0.5)
    for name in ("rgb", "opacity", "depth", "normal"):
        np.testing.assert_allclose(
            getattr(drawn, name), getattr(plain, name), atol=2e-5
        )
    for got, want in zip(jax.tree.leaves(other), jax.tree.leaves(slope)):
        np.testing.assert_allclose(got, want, atol=2e-4)
    assert 0 < drawn.aux["samples"].mean() < 12
    assert drawn.aux["samples"].dtype == jnp.int32
    assert not drawn.aux["dropped"].any()


@pytest.mark.slow
def test_points_of_empty_cells_carry_no_weight_and_lack_of_room_is_told(drawn_with):
    right = np.asarray(CAMERA.world_to_camera)[0, :3]
    half = cells_near_ball(0.6) & ((centres() - 0.5) @ right > 0)
    plain, _ = drawn_with(None, 1.0)
    drawn, _ = drawn_with(half, 1.0)
    missed = np.asarray(drawn.aux["samples"]) == 0
    assert plain.opacity[missed].max() > 0.9
    assert drawn.opacity[~missed].max() > 0.9
    np.testing.assert_array_equal(drawn.opacity[missed], 0)
    everywhere = np.ones((SIDE,) * 3)
    drawn, _ = drawn_with(everywhere, 0.5)
    samples, dropped = (np.asarray(drawn.aux[k]) for k in ("samples", "dropped"))
    np.testing.assert_array_equal(samples, 24)
    # room for the nearest half: of 24 points, and before of the 12 coarse ones
    np.testing.assert_array_equal(dropped, 12 + 6)
