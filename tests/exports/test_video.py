"""Turntables: where the cameras stand, what the panels show, what a player reads."""

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sdsjax.cameras import camera_angles, pixel_rays
from sdsjax.exports import video
from sdsjax.types import Rendering


def ball(camera):
    """A red ball of radius 0.5 at the origin, traced: exact depth and normals."""
    origin, ray = pixel_rays(camera)
    along = -(origin * ray).sum(-1)
    half = 0.25 - (origin**2).sum(-1) + along**2
    hit = half > 0
    reach = along - jnp.sqrt(jnp.maximum(half, 0))
    point = origin + reach[..., None] * ray
    depth = (point @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3])[
        ..., 2
    ]
    cover = hit.astype(jnp.float32)
    rgb = cover[..., None] * jnp.array([1.0, 0.0, 0.0]) + (1 - cover)[..., None]
    normal = jnp.where(hit[..., None], point / 0.5, 0.0)
    return Rendering(rgb, cover, jnp.where(hit, depth, 0.0), normal)


def test_cameras_go_round_from_the_front_to_the_left():
    cameras = video.turntable_cameras(8, 32)
    azimuth, elevation = jax.vmap(camera_angles)(cameras)
    np.testing.assert_allclose(azimuth[:4], [0, 45, 90, 135], atol=1e-3)
    np.testing.assert_allclose(elevation, 15.0, atol=1e-3)
    assert (cameras.width, cameras.height) == (32, 32)


def test_panels_show_the_four_quantities():
    frames = video.render_frames(jax.jit(ball), video.turntable_cameras(3, 32))
    rows = video.panel_rows(frames)
    assert rows.shape == (3, 32, 4 * 32, 3)
    assert rows.dtype == np.uint8
    rgb, depth, normal, opacity = np.split(rows, 4, axis=2)
    for panel in (rgb, depth, normal, opacity):
        np.testing.assert_array_equal(panel[:, 0, 0], 255)
    np.testing.assert_array_equal(rgb[0, 16, 16], [255, 0, 0])
    np.testing.assert_array_equal(opacity[0, 16, 16], [0, 0, 0])
    # The front's normal is about +z: blue; nearest of all: viridis' yellow.
    assert normal[0, 16, 16, 2] > 240
    assert depth[0, 16, 16, 0] > 200
    near, far = video.depth_range(frames)
    assert near == pytest.approx(2.6, abs=0.02)
    assert near < far < 3.1


def test_mp4_reads_back(tmp_path):
    cameras = video.turntable_cameras(5, 33)
    rows = video.panel_rows(video.render_frames(jax.jit(ball), cameras))
    path = video.write_video(tmp_path / "turntable.mp4", rows, fps=24)
    assert path.suffix == ".mp4"
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    # Odd sides are padded, not cropped or resized.
    assert np.shape(images) == (5, 34, 132, 3)
    assert np.abs(images[0][:33].astype(int) - rows[0]).mean() < 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["turntable.mp4"]


def test_without_h264_an_animated_webp(tmp_path, monkeypatch):
    def broken(*args):
        raise ValueError("no encoder")

    monkeypatch.setattr(video, "_encode_h264", broken)
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
    path = video.write_video(tmp_path / "turntable.mp4", images)
    assert path.name == "turntable.webp"
    assert Image.open(path).n_frames == 4
    monkeypatch.setattr(video, "_encode_webp", broken)
    with pytest.raises(video.VideoError, match="no encoder"):
        video.write_video(tmp_path / "other.mp4", images)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["turntable.webp"]
