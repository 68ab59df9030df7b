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
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sdsjax.cameras import Camera, orbit_camera
from sdsjax.diagnostics import metrics
from sdsjax.toybox.world.captions import parse_caption
from sdsjax.toybox.world.objects import COLORS, DIRECTED_KINDS
from sdsjax.toybox.world.renderer import TILE, render_batch
from sdsjax.toybox.world.scene import Scene, SceneSpec, build_scene
from sdsjax.toybox.world.views import FOV_DEG, heldout_orbits
from sdsjax.types import Rendering

SIZE = 64
POINTS = 4096
# Views nearer to the front than this look like it in truth as well.
JANUS_BEYOND = 60.0
# Correlation of two true views above which they cannot be told apart.
JANUS_ALIKE = 0.98
# True pictures are traced in pieces of so many samples a side, so many at a time.
BLOCK = 256
TOGETHER = 4


class Views(NamedTuple):
    """V pictures on white: rgb [V s s 3]; opacity, depth [V s s]; normal [V s s 3]."""

    rgb: np.ndarray
    opacity: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


@jax.jit
def _orbit_of_one_pixel(orbit, fov) -> Camera:
    """The camera at orbit [3] whose whole picture is one pixel; fov in degrees."""
    return orbit_camera(orbit[0], orbit[1], orbit[2], fov=fov, width=1, height=1)


def orbit_cameras(orbits, size: int, *, fov: float = FOV_DEG) -> Camera:
    """Makes square cameras on the host for rows of (azimuth, elevation, distance).

    Degrees and world units; size: px; fov: degrees. One small program serves every size
    and every number of views.
    """
    rows = np.asarray(orbits, np.float32).reshape(-1, 3)
    unit = [_orbit_of_one_pixel(row, np.float32(fov)) for row in rows]
    unit = jax.tree.map(
        lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *unit
    )
    scale = np.float32(size)
    return Camera(
        unit.world_to_camera, scale * unit.focal, scale * unit.principal, size, size
    )


def _blocks(
    cameras: Camera, supersample: int
) -> Iterator[tuple[int, int, int, Camera]]:
    """Yields (view, row, column, camera) of square pieces of every picture: a piece's
    pixels are the picture's samples, from (row, column) on."""
    samples = cameras.width * supersample
    side = min(BLOCK, -(-samples // TILE) * TILE)
    for view in range(len(cameras.focal)):
        for row in range(0, samples, side):
            for column in range(0, samples, side):
                yield (
                    view,
                    row,
                    column,
                    Camera(
                        cameras.world_to_camera[view],
                        supersample * cameras.focal[view],
                        supersample * cameras.principal[view]
                        - np.array([column, row], np.float32),
                        side,
                        side,
                    ),
                )


def _traced_samples(scene: Scene, cameras: Camera, supersample: int) -> np.ndarray:
    """Traces every sample of the true pictures `[V n n 10]`, n = size supersample.

    The ten: fixed 3, primary, secondary, hit, camera z, normal 3. Pictures are traced
    in pieces of one size, so many at a time that one program serves all of them: it
    takes longer to compile than most pictures take to trace.
    """
    pieces = list(_blocks(cameras, supersample))
    samples = cameras.width * supersample
    traced = np.zeros((len(cameras.focal), samples, samples, 10), np.float32)
    scenes = jax.tree.map(lambda a: np.broadcast_to(a, (TOGETHER, *a.shape)), scene)
    for first in range(0, len(pieces), TOGETHER):
        some = pieces[first : first + TOGETHER]
        filled = some + some[-1:] * (TOGETHER - len(some))
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(p[3] for p in filled))
        layers = jax.device_get(render_batch(scenes, batch, supersample=1))
        columns = [a if a.ndim == 4 else a[..., None] for a in layers]
        for (view, row, column, _), found in zip(some, np.concatenate(columns, -1)):
            place = traced[view, row:, column:][: len(found), : len(found)]
            place[...] = found[: place.shape[0], : place.shape[1]]
    return traced


def true_views(spec: SceneSpec, orbits, *, size: int = SIZE, supersample=4) -> Views:
    """Renders the true pictures of a caption's scene, on white.

    orbits: rows of (azimuth, elevation, distance), degrees and world units; size: px;
    supersample: rays a pixel along each side.
    """
    cameras = orbit_cameras(orbits, size)
    traced = _traced_samples(build_scene(spec), cameras, supersample)
    shape = (len(traced), size, supersample, size, supersample, 10)
    pixels = traced.reshape(shape).mean(axis=(2, 4))
    fixed, (primary, secondary, opacity, z) = (
        pixels[..., :3],
        np.moveaxis(pixels[..., 3:7], -1, 0),
    )
    normal, covered = pixels[..., 7:], opacity > 0
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    second = COLORS[spec.base_color] if spec.base_color else (0.0, 0.0, 0.0)
    # as renderer.compose, on white
    rgb = fixed + primary[..., None] * np.asarray(COLORS[spec.color], np.float32)
    rgb = (
        rgb
        + secondary[..., None] * np.asarray(second, np.float32)
        + (1 - opacity[..., None])
    )
    return Views(
        rgb,
        opacity,
        np.where(covered, z / np.where(covered, opacity, 1), 0).astype(np.float32),
        normal / np.where(length > 1e-6, length, np.inf),
    )


@cache
def _heldout_truth(spec: SceneSpec, size: int) -> tuple[Views, Views]:
    """The true held-out views, and the true front at each one's elevation."""
    orbits = heldout_orbits()
    fronts = tuple((0.0, elevation, distance) for _, elevation, distance in orbits)
    views = true_views(spec, orbits + fronts, size=size)
    half = len(orbits)
    return Views(*(a[:half] for a in views)), Views(*(a[half:] for a in views))


def compiled(render: Callable[[Camera], Rendering]) -> Callable[[Camera], Rendering]:
    """Compiles a render function into one program a size, without its aux.

    A `Partial` of a jitted function is one already, and is shared: its parameters enter
    as arguments, so that another asset of that kind is not compiled again.
    """
    if isinstance(render, Partial):
        return render
    return jax.jit(lambda camera: render(camera)._replace(aux=None))


def draw_views(render: Callable[[Camera], Rendering], orbits, *, size: int) -> Views:
    """The asset's pictures; what is not finite becomes 0."""
    cameras, draw = orbit_cameras(orbits, size), compiled(render)
    rows = []
    for index in range(len(orbits)):
        drawn = draw(jax.tree.map(operator.itemgetter(index), cameras))
        rows.append(
            jax.device_get([drawn.rgb, drawn.opacity, drawn.depth, drawn.normal])
        )
    arrays = (np.stack(column) for column in zip(*rows))
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
    return float(_chamfer(*(_thinned(p, POINTS) for p in (ours, true))))


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


_chamfer = jax.jit(metrics.chamfer)


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


def ready(caption: str, *, size: int = SIZE) -> None:
    """Renders a caption's true pictures, which are kept, and compiles the scores.

    Raises captions.CaptionError for a prompt outside the toybox.
    """
    spec, _ = parse_caption(caption)
    truth, fronts = _heldout_truth(spec, size)
    compare(truth, truth, fronts, spec, size)


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
