"""Scores: the truth scores perfectly, known faults cost what they should."""

import operator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.cameras import camera_angles
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import CaptionError
from sdsjax.toybox.world.renderer import render
from sdsjax.toybox.world.scene import SceneSpec, build_scene
from sdsjax.toybox.world.views import heldout_orbits
from sdsjax.types import Rendering

SIZE = 16  # with two rays a pixel each way a tile of the renderer
SPEC = SceneSpec("snowman", "blue")
ORBITS = heldout_orbits()


@pytest.fixture(scope="module")
def truth():
    drawn = partial(scoring.true_views, supersample=2)
    scoring._heldout_truth.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "true_views", drawn)
        yield scoring._heldout_truth(SPEC, SIZE)
    scoring._heldout_truth.cache_clear()


def scored(views, truth):
    return scoring.compare(views, *truth, SPEC, SIZE)


def test_truth_scores_perfectly(truth):
    found = scored(truth[0], truth)
    assert found["iou"] == 1
    assert found["psnr"] == found["psnr_full"] == 100
    assert found["ssim"] == pytest.approx(1)
    assert found["chamfer"] == found["depth_error"] == 0
    assert found["janus_rate"] == 0
    assert len(found["views"]["iou"]) == len(ORBITS)


def test_a_front_on_every_side_is_janus(truth):
    found = scored(truth[1], truth)
    assert found["janus_rate"] == 1
    counted = [v for v in found["views"]["janus"] if v is not None]
    far = [o for o in ORBITS if abs(o[0]) > scoring.JANUS_BEYOND]
    assert counted == [True] * len(far)


def test_janus_is_blind_to_gain_and_shift(truth):
    own, _ = truth
    assert scored(own._replace(rgb=0.4 * own.rgb + 0.5), truth)["janus_rate"] == 0


def test_no_front_no_janus_rate():
    assert not scoring.has_front(SceneSpec("ball", "red"))
    assert scoring.has_front(SceneSpec("ball", "red", "house", "blue")) == (
        "house" in scoring.DIRECTED_KINDS
    )


def test_psnr_counts_the_masks_only(truth):
    """An error on the object alone: the same dB whatever surrounds it."""
    own, _ = truth
    inside = own.opacity[..., None] > 0.5
    found = scored(own._replace(rgb=np.where(inside, own.rgb * 0.0, own.rgb)), truth)
    error = [(rgb[m] ** 2).mean() for rgb, m in zip(own.rgb, inside[..., 0])]
    expected = np.mean(-10 * np.log10(error))
    assert found["psnr"] == pytest.approx(expected, rel=1e-4)
    assert found["psnr_full"] > found["psnr"]


def test_depth_that_is_off_shows_in_chamfer(truth):
    own, _ = truth
    found = scored(own._replace(depth=own.depth + 0.1), truth)
    assert found["depth_error"] == pytest.approx(0.1, rel=1e-4)
    assert 0.02 < found["chamfer"] < 0.1


def test_nothing_drawn_is_scored_and_not_a_crash(truth):
    empty = jax.tree.map(np.zeros_like, truth[0])
    found = scored(empty._replace(rgb=empty.rgb + 1), truth)
    assert found["iou"] == 0
    assert found["chamfer"] is None
    assert found["depth_error"] is None


def test_unprojected_points_lie_on_a_known_plane():
    """A picture of constant depth d is the plane at distance d before the camera."""
    orbits = ((30.0, 20.0, 3.0),)
    cameras = scoring.orbit_cameras(orbits, 8)
    depth = np.full((1, 8, 8), 2.0)
    views = scoring.Views(np.zeros((1, 8, 8, 3)), depth / 2, depth, depth)
    points = scoring.unproject(views, cameras)
    pose = np.asarray(cameras.world_to_camera[0])
    local = points @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(local[:, 2], 2.0, rtol=1e-5)
    half = 2.0 * np.tan(np.deg2rad(20.0)) * 7 / 8
    assert local[:, 0].min() == pytest.approx(-half, rel=1e-5)
    assert local[0, 1] < 0 < local[-1, 1]


def test_score_draws_the_heldout_views(truth):
    """`score` from a render function: the truth's own pictures, looked up by angle."""
    own, _ = truth
    table = jnp.asarray([orbit[:2] for orbit in ORBITS])
    leaves = [jnp.asarray(a) for a in (own.rgb, own.opacity, own.depth, own.normal)]

    def render(camera):
        gap = jnp.stack(camera_angles(camera)) - table
        index = jnp.argmin((gap**2).sum(axis=1))
        return Rendering(*(leaf[index] for leaf in leaves))

    found = scoring.score(render, "a blue snowman", size=SIZE)
    assert found["iou"] == 1
    assert found["psnr"] == 100


def test_prompts_outside_the_toybox_are_refused():
    with pytest.raises(CaptionError):
        scoring.score(lambda camera: None, "a DSLR photo of a hamburger")


@pytest.mark.slow
def test_truth_traced_in_pieces_is_the_renderers_own(monkeypatch):
    spec, orbits = SceneSpec("mug", "red"), [(30.0, 20.0, 3.1), (200.0, 5.0, 3.0)]
    # 40 px of 2 x 2 rays: pieces of 32 samples do not fit, and are more than a batch
    monkeypatch.setattr(scoring, "BLOCK", 32)
    found = scoring.true_views(spec, orbits, size=40, supersample=2)
    cameras = scoring.orbit_cameras(orbits, 40)
    scene, red = build_scene(spec), scoring.COLORS["red"]
    draw = jax.jit(lambda camera: render(scene, camera, red))
    for index in range(2):
        true = draw(jax.tree.map(operator.itemgetter(index), cameras))
        for name in ("rgb", "opacity", "depth"):
            ours, theirs = getattr(found, name)[index], getattr(true, name)
            np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=name)
        far = np.abs(found.normal[index] - true.normal).max(axis=-1) > 1e-3
        assert far.mean() < 0.01  # rays that graze an edge
