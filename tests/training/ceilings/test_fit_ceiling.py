"""The ceiling's fit, on a representation whose best fit is known in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera, pixel_rays

from sdsjax.representations.radiance_field.representation import nerf
from sdsjax.toybox.world.captions import CaptionError
from sdsjax.training.ceilings import fit as ceilings
from sdsjax.types import Rendering, Representation


class Flat(NamedTuple):
    """One colour [3] and one opacity [] for every pixel; a flag that never learns."""

    colour: jax.Array
    cover: jax.Array
    flag: jax.Array


def flat() -> Representation:
    def init(key):
        del key
        grey, cover = np.full(3, 0.1, np.float32), np.asarray(0.9, np.float32)
        return jax.device_put(Flat(grey, cover, np.ones(2, bool))), ()

    def render(params, state, camera, key):
        del state, key
        shape = (camera.height, camera.width)
        rgb = jnp.broadcast_to(params.colour, (*shape, 3))
        cover = jnp.broadcast_to(params.cover, shape)
        return Rendering(rgb, cover, 3.0 * cover, rgb * 0)

    return Representation(init, render, "image", lambda *_: (0.0, {}))


def test_fit_finds_the_least_squares_solution():
    prompt, count, size = "a red ball", 8, 12
    params, _, losses = ceilings.fit(
        prompt,
        flat(),
        steps=250,
        batch=8,
        count=count,
        size=size,
        learning_rates={"colour": 0.02, "cover": 0.02, "means": 1.0},
    )
    _, truth = ceilings.training_views(prompt, count, size=size)
    np.testing.assert_allclose(params.colour, truth.rgb.mean((0, 1, 2)), atol=0.02)
    np.testing.assert_allclose(params.cover, truth.opacity.mean(), atol=0.02)
    assert np.asarray(params.flag).all()
    losses = np.asarray(losses)
    assert losses[-1] < losses[0]


def test_training_views_are_the_same_every_time_and_depend_on_the_seed():
    first, _ = ceilings.training_views("a red ball", 2, size=8)
    again, _ = ceilings.training_views("a red ball", 2, size=8)
    other, _ = ceilings.training_views("a red ball", 2, size=8, seed=1)
    np.testing.assert_array_equal(first.world_to_camera, again.world_to_camera)
    one, two = (np.asarray(views.world_to_camera) for views in (first, other))
    assert np.abs(one - two).max() > 0.1


def test_ceiling_refuses_what_is_no_caption():
    with pytest.raises(CaptionError):
        ceilings.ceiling("a hamburger", flat())


def test_every_third_pixel_is_seen_through_its_middle():
    camera = orbit_camera(30.0, 20.0, 3.0, width=12, height=9)
    picture = np.arange(108, dtype=np.float32).reshape(9, 12)
    pixels = jax.jit(ceilings._pixels, static_argnums=1)
    origins, directions = jax.device_get(pixel_rays(camera))
    every = jax.jit(lambda camera, offset: ceilings.every(camera, 3, offset))
    for x, y in ((0, 0), (2, 1)):
        offset = np.array([x, y])
        small = every(camera, offset)
        assert (small.width, small.height) == (4, 3)
        few, along = pixel_rays(small)
        np.testing.assert_allclose(along, directions[y::3, x::3], atol=1e-6)
        np.testing.assert_allclose(few, origins[y::3, x::3], atol=1e-6)
        got = pixels(picture, 3, offset)
        np.testing.assert_array_equal(got, picture[y::3, x::3])
    with pytest.raises(ValueError, match="stride = 5 must divide size = 12"):
        ceilings.fit("a red ball", flat(), size=12, stride=5)


def test_who_has_a_ceiling():
    params, _ = jax.eval_shape(nerf(levels=1, log2_size=9).init, jax.random.key(0))
    assert ceilings.settings_for(params)["stride"] == 4
    assert ceilings.settings_for(flat().init(None)[0]) is None


@pytest.mark.slow
def test_a_field_is_fitted_with_its_grid_and_proposal():
    """Its state follows, or a ball would stay the ball it began as."""
    representation = nerf(
        levels=4, log2_size=10, hidden=16, coarse=12, fine=12, proposal=2,
        occupancy=8, losses={"interlevel": 1.0},
    )  # fmt: skip
    params, state, losses = ceilings.fit(
        "a red ball", representation, steps=60, batch=2, count=8, size=32, stride=4
    )
    # so few steps and rays bring a field without either to 0.64 of its first loss
    assert losses[-10:].mean() < 0.8 * losses[:3].mean()
    begun, first = jax.jit(representation.init)(jax.random.key(0))
    assert np.abs(state.occupancy - first.occupancy).max() > 0.1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, begun)
    assert all(jax.tree.leaves(moved.proposal))
