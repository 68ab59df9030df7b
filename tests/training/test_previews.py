"""Previews, turntable and scores draw with one program for each size of a picture."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jitted import orbit_camera

from sdsjax.cameras import OrbitRange
from sdsjax.diffusion import NoiseSchedule
from sdsjax.exports import video
from sdsjax.priors import gaussian_mixture
from sdsjax.representations.gaussians import gaussians
from sdsjax.toybox.scoring import score as scoring
from sdsjax.training.previews import Previews, fixed_views, make_draw
from sdsjax.types import PriorSource

SIZE = 16


@pytest.mark.slow
def test_one_program_draws_previews_scores_turntables_and_another_asset():
    representation = gaussians(count=20)
    draw = make_draw(representation)
    schedule = NoiseSchedule.scaled_linear()
    colours = jnp.zeros((1, SIZE, SIZE, 3))
    source = PriorSource(
        colours,
        lambda means: gaussian_mixture(
            schedule, jnp.ones(1), means, jnp.ones(1), (True,)
        ),
    )
    preview = Previews(source, representation, OrbitRange(), SIZE, draw)
    first = jax.jit(representation.init)(jax.random.key(0))
    other = jax.jit(representation.init)(jax.random.key(1))
    renders, _ = preview(*first, colours, jax.random.key(2))
    views = scoring.draw_views(
        scoring.compiled(Partial(draw, *first)), [(0.0, 15.0, 3.1)], size=SIZE
    )
    np.testing.assert_array_equal(renders[0], views.rgb[0])
    cameras = video.turntable_cameras(2, SIZE)
    frames = video.render_frames(Partial(draw, *other), cameras)
    assert np.abs(frames.rgb[0] - views.rgb[0]).max() > 0.01
    assert draw._cache_size() == 1


def test_fixed_views_are_those_of_orbit_camera():
    orbit = OrbitRange(elevation=(20.0, 30.0), distance=(2.0, 3.0), fov=(50.0, 50.0))
    cameras = fixed_views(orbit, 48)
    for index, azimuth in enumerate((0.0, 90.0, 180.0, -90.0)):
        expected = orbit_camera(azimuth, 20.0, 2.5, fov=50.0, width=48, height=48)
        found = jax.tree.map(operator.itemgetter(index), cameras)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
