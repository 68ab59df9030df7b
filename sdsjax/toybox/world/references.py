"""True pictures of a prompt as references for image-to-3D: RGBA files, cameras.json.

    python -m sdsjax.toybox references "a red mug" --out FOLDER --azimuths 0 90

writes them in the form that `--config.reference.path=FOLDER` reads
(files/reference_images.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from sdsjax.cameras import Camera, orbit_camera
from sdsjax.files.atomic import replacing, write_text
from sdsjax.files.reference_images import CAMERAS, Orbit
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.objects import COLORS
from sdsjax.toybox.world.renderer import compose, render_layers
from sdsjax.toybox.world.scene import build_scene

BLACK = (0.0, 0.0, 0.0)


def true_rgba(
    prompt: str, orbits: Sequence[Orbit], size: int
) -> tuple[np.ndarray, list[Camera]]:
    """The true pictures of a prompt and their cameras.

    rgba [n size size 4] in [0, 1], rgb times alpha.

    Raises captions.CaptionError for what is no caption.
    """
    spec, _ = parse_caption(prompt)
    scene = build_scene(spec)
    colors = COLORS[spec.color], COLORS[spec.base_color or "white"]
    draw = jax.jit(lambda camera: render_layers(scene, camera, supersample=4))
    pictures, cameras = [], []
    for azimuth, elevation, distance, fov in orbits:
        camera = orbit_camera(
            azimuth, elevation, distance, fov=fov, width=size, height=size
        )
        layers = jax.device_get(draw(camera))
        rgb = np.asarray(compose(layers, *colors, BLACK))
        pictures.append(np.concatenate([rgb, layers.opacity[..., None]], axis=-1))
        cameras.append(camera)
    return np.stack(pictures).astype(np.float32), cameras


def write_references(
    folder: Path, prompt: str, orbits: Sequence[Orbit], size: int
) -> None:
    """Writes `NNN.png`, straight RGBA, and cameras.json into `folder`."""
    rgba, _ = true_rgba(prompt, orbits, size)
    views = []
    for index, (picture, orbit) in enumerate(zip(rgba, orbits)):
        name = f"{index:03d}.png"
        alpha = picture[..., 3:]
        straight = np.concatenate(
            [picture[..., :3] / np.maximum(alpha, 1e-6), alpha], axis=-1
        )
        image = Image.fromarray((np.clip(straight, 0, 1) * 255 + 0.5).astype(np.uint8))
        with replacing(folder / name) as partial:
            image.save(partial)
        views.append({"file": name, **orbit._asdict()})
    write_text(folder / CAMERAS, json.dumps({"views": views}, indent=1) + "\n")
