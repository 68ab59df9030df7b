"""The pictures of a run: a turntable, fixed views beside the truth, a row a particle.

Every picture of one size is drawn by one program; colours are rgb in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sdsjax.cameras import Camera
from sdsjax.exports import video
from sdsjax.exports.written_files import write_image
from sdsjax.toybox.scoring import score as scoring
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.views import CANONICAL_ORBITS, DISTANCE
from sdsjax.types import Rendering

Render = Callable[[Camera], Rendering]
ORBITS = tuple((*angles, DISTANCE) for angles in CANONICAL_ORBITS)


def write_turntable(path: Path, render: Render, *, frames: int, size: int) -> Path:
    """Writes once around the asset as a video; size in pixels of a panel."""
    cameras = video.turntable_cameras(frames, size)
    rows = video.panel_rows(video.render_frames(render, cameras))
    return video.write_video(path, rows)


def write_flat(path: Path, render: Render, *, size: int) -> Path:
    """Writes what the camera in front of the asset sees as a PNG."""
    camera = video.camera_at(video.turntable_cameras(1, size), 0)
    return write_image(path, np.asarray(render(camera).rgb))


def _row(render: Render, cameras: Camera) -> np.ndarray:
    # pictures of a batch of cameras side by side
    return np.concatenate(list(video.render_frames(render, cameras).rgb), axis=1)


def write_views(
    path: Path, render: Render, prompt: str, *, size: int, with_truth: bool
) -> Path:
    """Writes the canonical views side by side, and the truth below them."""
    rows = [_row(render, scoring.orbit_cameras(ORBITS, size))]
    if with_truth:
        spec, _ = parse_caption(prompt)
        truth = scoring.true_views(spec, ORBITS, size=size, supersample=2)
        rows.append(np.concatenate(list(truth.rgb), axis=1))
    return write_image(path, np.concatenate(rows, axis=0))


def write_particles(
    path: Path, renders: Sequence[Render], *, size: int, flat: bool
) -> Path:
    """Writes a row of canonical views a particle; `flat`: one picture each."""
    cameras = scoring.orbit_cameras(ORBITS[: 1 if flat else None], size)
    return write_image(path, np.concatenate([_row(one, cameras) for one in renders]))
