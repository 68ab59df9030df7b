"""The toybox's renderer: sphere tracing of scenes, shading linear in the two colours.

Notation: h, w image size in pixels; s the supersampling factor, s^2 rays a pixel, box
filtered; rays are traced in square tiles, coordinate-major: points and directions are
three arrays [n]. rgb in [0, 1]; depth is camera z; normals in the world frame.
Lights are fixed in the world and there are no shadows and no gloss, so that

    rgb = fixed + primary color_a + secondary color_b + (1 - opacity) background

holds exactly for any two colours and any background: a pool of `Layers` serves every
colour. Sphere tracing: J. C. Hart, "Sphere tracing", The Visual Computer 12 (1996).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sdsjax.cameras import Camera, camera_position
from sdsjax.toybox.world.primitives import DISTANCES
from sdsjax.toybox.world.scene import PADDED, PAINT_RGB, Scene
from sdsjax.types import Rendering

MAX_STEPS = 128
HIT = 1e-3  # world units: a ray this close has arrived
STALLED = 8e-3  # a ray still going after MAX_STEPS has arrived if this close
TILE = 32  # rays along a tile's side
FAR = 1e3
_DIFFERENCE = 1e-3  # world units; float32 distances are good to 1e-7

_KEY_LIGHT = (0.10, 0.60, 0.79)  # unit, towards the light: from above and the front
_SKY = (0.47, 0.87, 0.12)  # unit, the brighter pole of the ambient light
# shade = AMBIENT + SKY n.sky + KEY max(n.light, 0), in [.39, 1]
_AMBIENT_LEVEL, _SKY_LEVEL, _KEY_LEVEL = 0.56, 0.17, 0.27


class Layers(NamedTuple):
    """A picture before its colours are chosen.

    Fields:
        fixed: [h, w, 3] light from the parts in fixed paints.
        primary, secondary: [h, w] shade of the parts in the caption's colours.
        opacity: [h, w] fraction of the pixel that is covered.
        depth: [h, w] mean camera z of what is covered; 0 where nothing is.
        normal: [h, w, 3] unit mean normal; 0 where nothing is covered.
    """

    fixed: jax.Array
    primary: jax.Array
    secondary: jax.Array
    opacity: jax.Array
    depth: jax.Array
    normal: jax.Array


def _primitive(scene: Scene, i, points):
    """Distance [n] of the i-th primitive to points (three arrays [n])."""
    size, rotation, position = scene.size[i], scene.rotation[i], scene.position[i]

    def local(distance):
        def branch(points):
            offset = [p - position[axis] for axis, p in enumerate(points)]
            own = [
                sum(rotation[row, axis] * offset[row] for row in range(3))
                for axis in range(3)
            ]
            return distance(size, *own)

        return branch

    # a scalar switch runs one branch only: scenes are mapped, never vmapped
    return lax.switch(scene.shape[i], [local(d) for d in DISTANCES.values()], points)


def _union(scene: Scene, order, count, points):
    """(distance, index of the nearest primitive) over the first `count` of `order`."""

    def nearer(k, best):
        i = order[k]
        distance = _primitive(scene, i, points)
        closer = distance < best[0]
        return jnp.where(closer, distance, best[0]), jnp.where(closer, i, best[1])

    start = (jnp.full(points[0].shape, FAR), jnp.zeros(points[0].shape, jnp.int32))
    return lax.fori_loop(0, count, nearer, start)


def sdf(scene: Scene, points):
    """Signed distance and material of a scene.

    Args:
        scene: one scene (no batch axis).
        points: [..., 3] world.

    Returns:
        distance [...] (negative inside; outside never above the true distance) and
        material [...] int32 of the nearest primitive.
    """
    scene, points = jax.tree.map(jnp.asarray, (scene, points))
    axes = tuple(points[..., axis].ravel() for axis in range(3))
    distance, index = _union(scene, jnp.arange(PADDED), scene.count, axes)
    shape = points.shape[:-1]
    material = scene.material[index]
    return distance.reshape(shape), material.reshape(shape)


def _tile_rays(camera: Camera, first_column, first_row, supersample):
    """Unit directions (three arrays [TILE^2], world) and their camera z."""
    step = jnp.arange(TILE) + 0.5
    u = (first_column + step) / supersample
    v = (first_row + step) / supersample
    x = (u - camera.principal[0]) / camera.focal[0]
    y = (v - camera.principal[1]) / camera.focal[1]
    x, y = (a.ravel() for a in jnp.meshgrid(x, y, indexing="xy"))
    forward = 1.0 / jnp.sqrt(x * x + y * y + 1.0)
    to_world = camera.world_to_camera[:3, :3].T
    directions = tuple(
        (to_world[axis, 0] * x + to_world[axis, 1] * y + to_world[axis, 2]) * forward
        for axis in range(3)
    )
    return directions, forward


def _bounds(scene: Scene, eye, directions):
    """Where rays may hit: (entry, exit) [n] of the primitives' bounding balls.

    And per primitive, if any ray of the tile meets its ball. A ray that meets none has
    entry > exit.
    """
    to_ball = jnp.asarray(scene.position) - eye  # [P, 3]
    closest = sum(to_ball[:, a, None] * directions[a] for a in range(3))  # [P, n]
    miss = jnp.sum(to_ball * to_ball, axis=-1)[:, None] - closest * closest
    half_squared = jnp.square(jnp.asarray(scene.bound))[:, None] - miss
    real = (jnp.arange(PADDED) < scene.count)[:, None]
    meets = (half_squared > 0) & real
    half = jnp.sqrt(jnp.maximum(half_squared, 0))
    entry = jnp.min(jnp.where(meets, closest - half, FAR), axis=0)
    leave = jnp.max(jnp.where(meets, closest + half, -FAR), axis=0)
    return jnp.maximum(entry, 0), leave, meets.any(axis=1)


def _march(scene: Scene, order, count, eye, directions, entry, leave):
    """(t, hit, primitive) [n] of each ray's first surface."""

    def at(t):
        return tuple(eye[axis] + t * directions[axis] for axis in range(3))

    def going(state):
        step, _, _, _, active = state
        return (step < MAX_STEPS) & active.any()

    def advance(state):
        step, t, nearest, primitive, active = state
        distance, index = _union(scene, order, count, at(t))
        # a ray that arrived keeps that distance: its last step may pass an edge
        nearest = jnp.where(active, distance, nearest)
        primitive = jnp.where(active, index, primitive)
        t = jnp.where(active, t + distance, t)
        return step + 1, t, nearest, primitive, active & (nearest > HIT) & (t < leave)

    n = entry.shape
    start = (0, entry, jnp.full(n, FAR), jnp.zeros(n, jnp.int32), entry < leave)
    _, t, nearest, primitive, active = lax.while_loop(going, advance, start)
    hit = (nearest < HIT) | (active & (nearest < STALLED))
    return t, hit, primitive, at(t)


def _normals(scene: Scene, order, count, points):
    """Unit normals (three arrays [n]) by differences on a tetrahedron's corners.

    And the corners' mean distance [n]: the points' own, to second order.
    """
    corners = jnp.array([(1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)], jnp.float32)
    moved = tuple(
        (p + _DIFFERENCE * corners[:, axis, None]).ravel()
        for axis, p in enumerate(points)
    )
    distance, _ = _union(scene, order, count, moved)
    distance = distance.reshape(4, -1)
    gradient = [
        sum(corners[k, axis] * distance[k] for k in range(4)) for axis in range(3)
    ]
    norm = jnp.sqrt(sum(g * g for g in gradient) + 1e-20)
    return tuple(g / norm for g in gradient), distance.mean(axis=0)


def surface_normals(scene: Scene, points):
    """Unit gradients [n, 3] of the distance at points [n, 3] on or near the surface."""
    scene, points = jax.tree.map(jnp.asarray, (scene, points))
    axes = tuple(points[:, axis] for axis in range(3))
    normal, _ = _normals(scene, jnp.arange(PADDED), scene.count, axes)
    return jnp.stack(normal, axis=-1)


def _shade(normal):
    """Light [n] that a white surface sends back."""
    sky = sum(n * s for n, s in zip(normal, _SKY, strict=True))
    key = sum(n * k for n, k in zip(normal, _KEY_LIGHT, strict=True))
    return _AMBIENT_LEVEL + _SKY_LEVEL * sky + _KEY_LEVEL * jnp.maximum(key, 0)


def _render_tile(scene: Scene, camera: Camera, supersample, corner):
    """A tile's filtered [10, t, t]: fixed, primary, secondary, hit, z, normal."""
    eye = camera_position(camera)
    directions, forward = _tile_rays(camera, corner[0], corner[1], supersample)
    entry, leave, used = _bounds(scene, eye, directions)
    # primitives that no ray of the tile can meet are left out of its union
    order, count = jnp.argsort(~used), used.sum()

    def trace():
        t, hit, index, points = _march(
            scene, order, count, eye, directions, entry, leave
        )
        normal, residual = _normals(scene, order, count, points)
        # Newton's step along the ray; a grazing ray is short by HIT / cosine
        cosine = -sum(n * d for n, d in zip(normal, directions, strict=True))
        t = t + jnp.clip(residual / jnp.maximum(cosine, 0.1), -10 * HIT, 10 * HIT)
        shade = _shade(normal) * hit
        material = jnp.asarray(scene.material)[index]
        paint = jnp.asarray(PAINT_RGB).T[:, material]
        fixed = [shade * channel for channel in paint]
        primary, secondary = shade * (material == 0), shade * (material == 1)
        rest = [hit * t * forward, *(hit * n for n in normal)]
        return jnp.stack([*fixed, primary, secondary, hit.astype(shade.dtype), *rest])

    empty = jnp.zeros((10, TILE * TILE), entry.dtype)
    samples = lax.cond(count > 0, trace, lambda: empty)
    side = TILE // supersample
    samples = samples.reshape(10, side, supersample, side, supersample)
    return samples.mean(axis=(2, 4))


def render_layers(scene: Scene, camera: Camera, *, supersample: int = 2) -> Layers:
    """Traces one scene from one camera; jit-able, mapped (not vmapped) over scenes.

    Args:
        scene: one scene (no batch axis).
        camera: one camera.
        supersample: 1, 2, 4 or 8; static.

    Raises:
        ValueError: for another `supersample`.
    """
    if supersample not in (1, 2, 4, 8):
        raise ValueError(f"supersample is {supersample}; allowed: 1, 2, 4, 8")
    side = TILE // supersample
    rows, columns = -(-camera.height // side), -(-camera.width // side)
    corners = jnp.stack(
        jnp.meshgrid(jnp.arange(columns), jnp.arange(rows), indexing="xy"), axis=-1
    )
    scene = jax.tree.map(jnp.asarray, scene)
    tiles = lax.map(
        partial(_render_tile, scene, camera, supersample), corners.reshape(-1, 2) * TILE
    )
    picture = tiles.reshape(rows, columns, 10, side, side).transpose(0, 3, 1, 4, 2)
    picture = picture.reshape(rows * side, columns * side, 10)
    picture = picture[: camera.height, : camera.width]
    opacity, normal = picture[..., 5], picture[..., 7:]
    covered = opacity > 0
    norm = jnp.linalg.norm(normal, axis=-1, keepdims=True)
    return Layers(
        fixed=picture[..., :3],
        primary=picture[..., 3],
        secondary=picture[..., 4],
        opacity=opacity,
        depth=jnp.where(covered, picture[..., 6] / jnp.where(covered, opacity, 1), 0),
        normal=normal / jnp.where(norm > 1e-6, norm, jnp.inf),
    )


def compose(layers: Layers, color_a, color_b, background):
    """Colours layers: rgb [..., h, w, 3] in [0, 1].

    color_a, color_b [..., 3] or [3]: of the object and its base; background [..., 3]:
    one flat colour a picture.
    """
    color_a, color_b, background = (
        jnp.asarray(c)[..., None, None, :] for c in (color_a, color_b, background)
    )
    return (
        layers.fixed
        + layers.primary[..., None] * color_a
        + layers.secondary[..., None] * color_b
        + (1 - layers.opacity[..., None]) * background
    )


def render(
    scene: Scene,
    camera: Camera,
    color_a,
    color_b=(0.0, 0.0, 0.0),
    background=(1.0, 1.0, 1.0),
    *,
    supersample: int = 2,
) -> Rendering:
    """The true `Rendering` of a scene in given colours; aux holds the `Layers`."""
    layers = render_layers(scene, camera, supersample=supersample)
    rgb = compose(layers, color_a, color_b, background)
    return Rendering(rgb, layers.opacity, layers.depth, layers.normal, layers)


@partial(jax.jit, static_argnames="supersample")
def render_batch(scenes: Scene, cameras: Camera, *, supersample: int = 2) -> Layers:
    """Renders the layers of a batch: a leading axis of both arguments.

    One after the other, so that memory is that of one picture.
    """
    return lax.map(
        lambda pair: render_layers(*pair, supersample=supersample), (scenes, cameras)
    )
