"""The contact sheet: every kind from each view word's plainest camera, and some pairs.

Rows are objects, columns the view words; each cell is rendered at `size` pixels and
enlarged, with its caption beneath.
"""

from functools import partial

import jax
import numpy as np
from PIL import Image, ImageDraw

from sdsjax.cameras import orbit_camera
from sdsjax.toybox.world.captions import caption, pair_split
from sdsjax.toybox.world.objects import COLORS, KINDS
from sdsjax.toybox.world.renderer import compose, render_layers
from sdsjax.toybox.world.scene import SceneSpec, build_scene
from sdsjax.toybox.world.views import CANONICAL_ORBITS, DISTANCE, FOV_DEG, VIEW_WORDS

_LABEL = 14  # pixels under a cell
BACKDROP = (0.88, 0.88, 0.86)


@partial(jax.jit, static_argnames="size")
def _trace(scene, orbit, fov, size):
    camera = orbit_camera(*orbit, fov=fov, width=size, height=size)
    return render_layers(scene, camera)


def render_specs(
    specs, orbits, *, size: int = 64, background=BACKDROP, fov: float = FOV_DEG
):
    """True pictures of specs, each from its orbit.

    Args:
        specs: n `SceneSpec`s.
        orbits: n (azimuth, elevation) or (azimuth, elevation, distance).
        size: width and height in pixels.
        background: one rgb.
        fov: the field of view in degrees.

    Returns:
        [n, size, size, 3] float32 numpy rgb in [0, 1].
    """
    pictures = []
    for spec, orbit in zip(specs, orbits, strict=True):
        layers = _trace(build_scene(spec), (*orbit, DISTANCE)[:3], fov, size)
        colors = COLORS[spec.color], COLORS[spec.base_color or "white"]
        pictures.append(compose(jax.device_get(layers), *colors, background))
    return np.asarray(pictures, np.float32)


def _grid(pictures, labels, columns, zoom):
    """Pictures [n, h, w, 3] with a label under each -> one PIL image."""
    n, height, width, _ = pictures.shape
    cell_w, cell_h = width * zoom, height * zoom + _LABEL
    rows = -(-n // columns)
    sheet = Image.new("RGB", (columns * cell_w, rows * cell_h), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = i % columns * cell_w, i // columns * cell_h
        tile = Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8))
        sheet.paste(tile.resize((width * zoom, height * zoom), Image.NEAREST), (x, y))
        draw.text((x + 3, y + height * zoom), label, fill="black")
    return sheet


def _stacked(top, bottom):
    sheet = Image.new(
        "RGB", (max(top.width, bottom.width), top.height + bottom.height), "white"
    )
    sheet.paste(top, (0, 0))
    sheet.paste(bottom, (0, top.height))
    return sheet


def contact_sheet(
    path, *, kinds=None, pairs: int = 20, size: int = 64, zoom: int = 2, across: int = 2
) -> None:
    """Writes the sheet as a picture file.

    Args:
        path: where; the suffix chooses the format.
        kinds: which kinds, default all.
        pairs: how many two-object scenes, in a block below.
        size: pixels a cell is rendered at; `zoom` times that on the sheet.
        across: kinds beside each other in a row.
    """
    kinds, colors = list(kinds or KINDS), list(COLORS)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"unknown kind {unknown[0]!r}; allowed: {', '.join(KINDS)}")
    views = range(len(VIEW_WORDS))
    singles = [SceneSpec(k, colors[i % len(colors)]) for i, k in enumerate(kinds)]
    specs = [spec for spec in singles for _ in views]
    pictures = render_specs(
        specs, [CANONICAL_ORBITS[v] for _ in singles for v in views], size=size
    )
    labels = [
        caption(spec) if view == 0 else VIEW_WORDS[view]
        for spec in singles
        for view in views
    ]
    columns = across * len(VIEW_WORDS)
    sheet = _grid(pictures, labels, columns, zoom)
    if pairs:
        train, _ = pair_split()
        stride = len(train) // pairs + 29  # 29: the colours change along with the kinds
        chosen = [train[i * stride % len(train)] for i in range(pairs)]
        orbits = [(40.0 * i % 360.0, 20.0) for i in range(pairs)]
        block = _grid(
            render_specs(chosen, orbits, size=size),
            [caption(spec) for spec in chosen],
            columns // 2,
            zoom * 2,
        )
        sheet = _stacked(sheet, block)
    sheet.save(path)
