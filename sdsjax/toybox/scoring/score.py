"""Ground-truth scores of an asset on the toybox's fixed held-out views.

Notation: v runs over `views.heldout_orbits()` (V views, `size` px, fov 40); I, A, D are
the asset's rgb (white background), opacity and depth; a star marks the truth, traced
with 4x4 rays a pixel; M = [A > .5].

    iou       mean_v |M and M*| / |M or M*|
    psnr      mean_v of the PSNR over the pixels of M or M*, dB
    psnr_full mean_v of the PSNR over the whole picture, dB
    ssim      mean_v SSIM
    chamfer   symmetric mean distance, world units, between the points that the asset's
              depth maps unproject to (pixels in M, all views together) and the points
              of the true depth maps: the surface that the held-out views can see. Depth
              serves every representation alike, with no iso-level to choose.
    depth_error  mean |D - D*| over M and M*, world units
    janus_rate   see `janus_rate`; None for kinds without a distinct front
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.cameras import Camera, orbit_camera
from sdsjax.diagnostics import metrics
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.objects import COLORS, DIRECTED_KINDS
from sdsjax.toybox.world.renderer import compose, render_batch
from sdsjax.toybox.world.scene import SceneSpec, build_scene
from sdsjax.toybox.world.views import FOV_DEG, heldout_orbits
from sdsjax.types import Rendering

SIZE = 64
POINTS = 4096
# Views nearer to the front than this look like it in truth as well.
JANUS_BEYOND = 60.0
# Correlation of two true views above which they cannot be told apart.
JANUS_ALIKE = 0.98


class Views(NamedTuple):
    """V pictures on white: rgb [V s s 3]; opacity, depth [V s s]; normal [V s s 3]."""

    rgb: np.ndarray
    opacity: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def orbit_cameras(orbits, size: int) -> Camera:
    """A batch of cameras for rows of (azimuth, elevation, distance)."""
    table = jnp.asarray(orbits, jnp.float32)
    return jax.vmap(
        lambda o: orbit_camera(o[0], o[1], o[2], fov=FOV_DEG, width=size, height=size)
    )(table)


def true_views(spec: SceneSpec, orbits, *, size: int = SIZE, supersample=4) -> Views:
    """The world's pictures of a caption's scene on white."""
    scene = build_scene(spec)
    scenes = jax.tree.map(lambda a: np.broadcast_to(a, (len(orbits), *a.shape)), scene)
    layers = render_batch(scenes, orbit_cameras(orbits, size), supersample=supersample)
    second = COLORS[spec.base_color] if spec.base_color else (0.0, 0.0, 0.0)
    rgb = compose(layers, COLORS[spec.color], second, (1.0, 1.0, 1.0))
    return Views(*map(np.asarray, (rgb, layers.opacity, layers.depth, layers.normal)))


@cache
def _heldout_truth(spec: SceneSpec, size: int) -> tuple[Views, Views]:
    """The true held-out views, and the true front at each one's elevation."""
    orbits = heldout_orbits()
    fronts = tuple((0.0, elevation, distance) for _, elevation, distance in orbits)
    views = true_views(spec, orbits + fronts, size=size)
    half = len(orbits)
    return Views(*(a[:half] for a in views)), Views(*(a[half:] for a in views))


def draw_views(render: Callable[[Camera], Rendering], orbits, *, size: int) -> Views:
    """The asset's pictures; what is not finite becomes 0."""
    cameras = orbit_cameras(orbits, size)
    draw = jax.jit(render)  # once compiled for a size, a jitted `render` is reused
    rows = []
    for index in range(len(orbits)):
        drawn = draw(jax.tree.map(operator.itemgetter(index), cameras))
        rows.append([drawn.rgb, drawn.opacity, drawn.depth, drawn.normal])
    arrays = (np.stack([np.asarray(a) for a in column]) for column in zip(*rows))
    return Views(*(np.nan_to_num(a, posinf=0.0, neginf=0.0) for a in arrays))


def unproject(views: Views, cameras: Camera) -> np.ndarray:
    """World points `[n 3]` of the pixels whose opacity exceeds one half.

    cameras: a batch, one a view. depth is camera z, so pixel (u, v) at depth d stands
    at camera coordinates d ((u - cx) / fx, (v - cy) / fy, 1).
    """
    height, width = views.depth.shape[1:]
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5, indexing="xy")
    points = []
    for index, depth in enumerate(views.depth):
        seen = views.opacity[index] > 0.5
        pose = np.asarray(cameras.world_to_camera[index], np.float64)
        focal, centre = cameras.focal[index], cameras.principal[index]
        x = (u[seen] - float(centre[0])) / float(focal[0])
        y = (v[seen] - float(centre[1])) / float(focal[1])
        local = np.stack([x, y, np.ones_like(x)], axis=1) * depth[seen][:, None]
        points.append((local - pose[:3, 3]) @ pose[:3, :3])
    return np.concatenate(points).astype(np.float32)


def _thinned(points: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the points, evenly through the list."""
    if len(points) <= count:
        return points
    return points[np.linspace(0, len(points) - 1, count).astype(int)]


def surface_distance(views: Views, truth: Views, orbits, *, size: int) -> float | None:
    """The Chamfer distance of the module's text; None when the asset shows nothing."""
    cameras = orbit_cameras(orbits, size)
    ours, true = unproject(views, cameras), unproject(truth, cameras)
    if len(ours) == 0 or len(true) == 0:
        return None
    pair = (jnp.asarray(_thinned(p, POINTS)) for p in (ours, true))
    return float(jax.jit(metrics.chamfer)(*pair))


def correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Pearson's correlation of two pictures `[s s 3]` over a mask `[s s]`.

    Each channel is centred by itself: blind to a gain and to a shift of the colours.
    """
    a, b = (np.asarray(x, np.float64)[mask] for x in (a, b))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-12))


def janus_rate(
    views: Views, truth: Views, fronts: Views, orbits
) -> tuple[float | None, list[bool | None]]:
    """Share of views that look more like the true front than like what they should be.

    For a view more than JANUS_BEYOND degrees of azimuth from the front: U the pixels
    that the true view or the true front from the same elevation covers, r(a, b) the
    correlation over U. The view counts if r(front, own) < JANUS_ALIKE (truth itself
    tells them apart), and is Janus if r(I, front) > r(I, own). Correlation, and not a
    distance: an asset that is brighter than the truth would otherwise pass for its
    front, which is the lit side. Returns the rate over the views that count (None if
    none does) and the verdict of each view (None: not counted).
    """
    verdicts: list[bool | None] = []
    for index, (azimuth, _, _) in enumerate(orbits):
        own, front, ours = (a.rgb[index] for a in (truth, fronts, views))
        covered = (truth.opacity[index] > 0.5) | (fronts.opacity[index] > 0.5)
        near = abs(azimuth) <= JANUS_BEYOND
        if near or not covered.any() or correlation(front, own, covered) >= JANUS_ALIKE:
            verdicts.append(None)
            continue
        to_front = correlation(ours, front, covered)
        verdicts.append(to_front > correlation(ours, own, covered))
    counted = [verdict for verdict in verdicts if verdict is not None]
    return (sum(counted) / len(counted) if counted else None), verdicts


def has_front(spec: SceneSpec) -> bool:
    """Whether the scene has a distinct front, so that a Janus rate means something."""
    return spec.kind in DIRECTED_KINDS or spec.base_kind in DIRECTED_KINDS


@jax.jit
def _picture_scores(rgb, true_rgb, mask, true_mask) -> dict:
    """Per view `[V]`: iou, psnr (inside the union of the masks), psnr_full, ssim."""
    rgb, true_rgb = jnp.clip(rgb, 0.0, 1.0), jnp.clip(true_rgb, 0.0, 1.0)
    return {
        "iou": jax.vmap(metrics.iou)(mask, true_mask),
        "psnr": jax.vmap(metrics.psnr)(rgb, true_rgb, mask | true_mask),
        "psnr_full": jax.vmap(metrics.psnr)(rgb, true_rgb),
        "ssim": jax.vmap(metrics.ssim)(rgb, true_rgb),
    }


def compare(views: Views, truth: Views, fronts: Views, spec: SceneSpec, size) -> dict:
    """All scores of drawn views against true ones; see the module's text."""
    orbits = heldout_orbits()
    mask, true_mask = views.opacity > 0.5, truth.opacity > 0.5
    drawn = _picture_scores(views.rgb, truth.rgb, mask, true_mask)
    each = {name: [float(v) for v in row] for name, row in drawn.items()}
    gap = np.abs(views.depth - truth.depth)[mask & true_mask]
    rate, verdicts = None, None
    if has_front(spec):
        rate, verdicts = janus_rate(views, truth, fronts, orbits)
    return {
        **{name: float(np.mean(row)) for name, row in each.items()},
        "chamfer": surface_distance(views, truth, orbits, size=size),
        "depth_error": float(gap.mean()) if gap.size else None,
        "janus_rate": rate,
        "views": {
            "orbits": [list(orbit) for orbit in orbits],
            "iou": each["iou"],
            "psnr": each["psnr"],
            "janus": verdicts,
        },
    }


def score(
    render: Callable[[Camera], Rendering], caption: str, *, size: int = SIZE
) -> dict:
    """Scores an asset against what its caption says.

    render: camera -> Rendering on a white background, jit-able. Returns the scores of
    the module's text as plain numbers (None where one is undefined), and under "views"
    the same a view. Raises captions.CaptionError for a prompt outside the toybox.
    """
    spec, _ = parse_caption(caption)
    truth, fronts = _heldout_truth(spec, size)
    views = draw_views(render, heldout_orbits(), size=size)
    return compare(views, truth, fronts, spec, size)
