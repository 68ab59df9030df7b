"""The ceiling's fit, on a representation whose best fit is known in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.toybox import ceiling as ceilings
from sdsjax.toybox.captions import CaptionError
from sdsjax.types import Rendering, Representation


class Flat(NamedTuple):
    """One colour [3] and one opacity [] for every pixel; a flag that never learns."""

    colour: jax.Array
    cover: jax.Array
    flag: jax.Array


def flat() -> Representation:
    def init(key):
        del key
        return Flat(jnp.full(3, 0.1), jnp.asarray(0.9), jnp.ones(2, bool)), ()

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
    assert params.flag.all()
    assert losses[-1] < losses[0]


def test_training_views_are_the_same_every_time_and_depend_on_the_seed():
    first, _ = ceilings.training_views("a red ball", 2, size=8)
    again, _ = ceilings.training_views("a red ball", 2, size=8)
    other, _ = ceilings.training_views("a red ball", 2, size=8, seed=1)
    np.testing.assert_array_equal(first.world_to_camera, again.world_to_camera)
    assert np.abs(first.world_to_camera - other.world_to_camera).max() > 0.1


def test_ceiling_refuses_what_is_no_caption():
    with pytest.raises(CaptionError):
        ceilings.ceiling("a hamburger", flat())
