"""Turntables: cameras around the object, panels side by side, H.264 or WebP.

A panel row is `[h, 4w, 3]` uint8: rgb | depth | normal | opacity. rgb on white; depth
in a perceptually even colour map, near bright, scaled to the range of the whole
turntable; normals (world frame) as 0.5 + 0.5 n; what is transparent is white.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sdsjax.cameras import Camera
from sdsjax.files.atomic import replacing
from sdsjax.runs.disk_errors import refusal
from sdsjax.toybox.scoring.score import orbit_cameras
from sdsjax.types import Rendering

PANELS = ("rgb", "depth", "normal", "opacity")
# Viridis at nine equal steps (Smith and van der Walt, CC0), interpolated linearly.
_VIRIDIS = np.array(
    [
        (0.267, 0.005, 0.329),
        (0.279, 0.175, 0.483),
        (0.230, 0.322, 0.546),
        (0.173, 0.449, 0.558),
        (0.128, 0.567, 0.551),
        (0.158, 0.684, 0.502),
        (0.369, 0.789, 0.383),
        (0.678, 0.864, 0.190),
        (0.993, 0.906, 0.144),
    ]
)


class VideoError(RuntimeError):
    """No encoder on this machine could write the video."""


class Frames(NamedTuple):
    """Renderings on the host, n of them.

    rgb [n h w 3], depth and opacity [n h w], normal [n h w 3] (world).
    """

    rgb: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    opacity: np.ndarray


def turntable_cameras(
    n: int, size: int, *, elevation=15.0, distance=3.1, fov=40.0
) -> Camera:
    """A batch [n] of cameras once around the object, from the front, to its left.

    size in pixels (square); elevation and fov in degrees; distance in world units.
    """
    azimuths = np.arange(n) * (360.0 / n)
    orbits = np.stack([azimuths, np.full(n, elevation), np.full(n, distance)], axis=1)
    return orbit_cameras(orbits, size, fov=fov)


def camera_at(cameras: Camera, index: int) -> Camera:
    """Picks one camera of a batch."""
    return jax.tree.map(lambda leaf: leaf[index], cameras)


def render_frames(render: Callable[[Camera], Rendering], cameras: Camera) -> Frames:
    """Draws a batch of cameras one by one; values that are not finite become 0.

    `render` is best jitted by the caller: all batches of one size share a program.
    """
    frames = []
    for index in range(len(cameras.world_to_camera)):
        drawn = render(camera_at(cameras, index))
        frames.append(
            jax.device_get([drawn.rgb, drawn.depth, drawn.normal, drawn.opacity])
        )
    stacked = (np.stack(row) for row in zip(*frames))
    return Frames(
        *(np.nan_to_num(leaf, copy=False, posinf=0.0, neginf=0.0) for leaf in stacked)
    )


def depth_range(frames: Frames) -> tuple[float, float]:
    """Returns near and far (camera z) of the opaque pixels but the outermost 0.5%."""
    depths = frames.depth[frames.opacity > 0.5]
    if depths.size == 0:
        return 0.0, 1.0
    near, far = np.quantile(depths, [0.005, 0.995])
    return float(near), float(max(far, near + 1e-3))


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Values in [0, 1] -> uint8."""
    return np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)


def colour_depth(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Colours `[... 3]` in [0, 1]: near is yellow, far is violet."""
    level = np.clip((far - depth) / (far - near), 0.0, 1.0)
    knots = np.linspace(0.0, 1.0, len(_VIRIDIS))
    return np.stack([np.interp(level, knots, c) for c in _VIRIDIS.T], axis=-1)


def panel_rows(frames: Frames) -> np.ndarray:
    """Panels side by side, `[n, h, 4w, 3]` uint8, in the order of PANELS."""
    near, far = depth_range(frames)
    count, height, width = frames.opacity.shape
    panels = np.full((count, height, len(PANELS), width, 3), 255, np.uint8)
    # most of a turntable is background, which is white in every panel
    seen = frames.opacity > 0
    cover = np.minimum(frames.opacity[seen], 1.0)[:, None]
    depth = cover * colour_depth(frames.depth[seen], near, far) + (1 - cover)
    length = np.linalg.norm(frames.normal[seen], axis=-1, keepdims=True)
    unit = frames.normal[seen] / np.maximum(length, 1e-6)
    normal = cover * (0.5 + 0.5 * unit) + (1 - cover)
    rows = panels.swapaxes(2, 3)  # a view: pixels first, then panels
    panels[:, :, 0] = to_bytes(frames.rgb)
    for index, panel in ((1, depth), (2, normal), (3, 1 - cover)):
        rows[:, :, :, index][seen] = to_bytes(panel)
    return panels.reshape(count, height, len(PANELS) * width, 3)


def even(images: np.ndarray) -> np.ndarray:
    """Repeats the last row or column `[n h w 3]` where a side is odd (H.264 4:2:0)."""
    _, height, width, _ = images.shape
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    return np.pad(images, pad, mode="edge")


def _encode_h264(path: Path, images: np.ndarray, fps: int) -> None:
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "medium", "tune": "animation"}
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _encode_webp(path: Path, images: np.ndarray, fps: int) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(image) for image in images)
    first.save(
        path,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=round(1000 / fps),
        loop=0,
        quality=85,
    )


def write_video(
    path: str | os.PathLike, images: Iterable[np.ndarray], *, fps: int = 24
) -> Path:
    """Writes `[n h w 3]` uint8 frames as H.264 (.mp4), else as animated WebP.

    Returns the path written: its suffix becomes .webp where no H.264 encoder works.
    Raises VideoError when neither does, and what the disk raises when it is full.
    """
    frames = even(np.asarray(images))
    failures = []
    for suffix, encode in ((".mp4", _encode_h264), (".webp", _encode_webp)):
        target = Path(path).with_suffix(suffix)
        try:
            with replacing(target) as partial:
                encode(partial, frames, fps)
            return target
        # An encoder fails in ways of its own: missing wheel, codec, or threads.
        except Exception as error:
            if refusal(error) is not None:
                raise  # a full disk is no reason for another format
            failures.append(f"{suffix}: {error}")
    raise VideoError("no video could be written; " + "; ".join(failures))
