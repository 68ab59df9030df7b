"""Cameras: a pinhole in OpenCV axes, orbits around the object, random views.

Notation and units: world right-handed, y up, the object's front along +z, the object
inside the unit ball. Camera axes x right, y down, z forward. Azimuth and elevation in
degrees; azimuth 0 looks at the front, +90 stands at +x and sees the object's own left
side. `focal` and `principal` in pixels, pixel centres at +0.5.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["world_to_camera", "focal", "principal"],
    meta_fields=["width", "height"],
)
@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera; a leading axis on the arrays makes it a batch for `vmap`.

    Fields: world_to_camera [4, 4]; focal [2] (fx, fy) px; principal [2] (cx, cy) px;
    width, height: static ints, px.
    """

    world_to_camera: jax.Array
    focal: jax.Array
    principal: jax.Array
    width: int
    height: int


# Degrees of elevation above which a camera's up vector is the limit at the pole.
NEAR_POLE = 89.0


class OrbitRange(NamedTuple):
    """Where random views are drawn: (low, high) each, degrees and world units.

    relative_distance: distances count in 1 / tan(fov / 2) world units, so that a ball
    of radius 1 fills the picture alike at every field of view (`fitted_distance`).
    """

    azimuth: tuple[float, float] = (-180.0, 180.0)
    elevation: tuple[float, float] = (-10.0, 45.0)
    distance: tuple[float, float] = (3.1, 3.1)
    fov: tuple[float, float] = (40.0, 40.0)
    overhead_fraction: float = 0.0
    relative_distance: bool = False


def look_at(eye: jax.Array, target: jax.Array, up: jax.Array) -> jax.Array:
    """Returns the world-to-camera matrix [4, 4] of an eye [3] looking at a target [3].

    A view along `up` borrows +z as its up vector: the top of an overhead picture is
    then the object's back.
    """
    forward = target - eye
    forward = forward / jnp.linalg.norm(forward)
    right = jnp.cross(forward, up)
    spare = jnp.cross(forward, jnp.array([0.0, 0.0, -1.0], eye.dtype))
    right = jnp.where(jnp.sum(right**2) > 1e-8, right, spare)
    right = right / jnp.linalg.norm(right)
    down = jnp.cross(forward, right)
    rotation = jnp.stack([right, down, forward])
    top = jnp.concatenate([rotation, -(rotation @ eye)[:, None]], axis=1)
    return jnp.concatenate([top, jnp.array([[0.0, 0.0, 0.0, 1.0]], eye.dtype)])


def orbit_position(azimuth, elevation, distance) -> jax.Array:
    """Returns the camera position [3] (world) for angles in degrees."""
    azimuth, elevation = jnp.deg2rad(azimuth), jnp.deg2rad(elevation)
    return distance * jnp.stack(
        [
            jnp.sin(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
            jnp.cos(azimuth) * jnp.cos(elevation),
        ]
    )


def fitted_distance(distance, fov):
    """Returns the world units of a distance in 1 / tan(fov / 2); fov in degrees."""
    return distance / jnp.tan(0.5 * jnp.deg2rad(fov))


def orbit_up(azimuth, elevation) -> jax.Array:
    """Returns the up vector [3] (world) of a camera on an orbit, for angles in degrees.

    World y, except near the poles, where y is (almost) the direction looked in: there
    the limit along the meridian, -/+ (sin azimuth, 0, cos azimuth), which spans the
    same plane with the direction looked in, so that no picture jumps at a pole.
    """
    turn = jnp.deg2rad(azimuth)
    outward = jnp.stack([jnp.sin(turn), jnp.zeros_like(turn), jnp.cos(turn)])
    y = jnp.array([0.0, 1.0, 0.0], outward.dtype)
    return jnp.where(jnp.abs(elevation) > NEAR_POLE, -jnp.sign(elevation) * outward, y)


def orbit_camera(
    azimuth, elevation, distance=3.1, *, fov=40.0, width: int = 64, height: int = 64
) -> Camera:
    """Makes a camera on a sphere around the origin, looking at it.

    azimuth, elevation, fov (vertical) in degrees; distance in world units.
    """
    dtype = jnp.result_type(float)
    azimuth, elevation, distance, fov = (
        jnp.asarray(v, dtype) for v in (azimuth, elevation, distance, fov)
    )
    eye = orbit_position(azimuth, elevation, distance)
    pose = look_at(eye, jnp.zeros(3, dtype), orbit_up(azimuth, elevation))
    focal = 0.5 * height / jnp.tan(0.5 * jnp.deg2rad(fov))
    return Camera(
        world_to_camera=pose,
        focal=jnp.stack([focal, focal]),
        principal=jnp.array([0.5 * width, 0.5 * height], dtype),
        width=width,
        height=height,
    )


def camera_position(camera: Camera) -> jax.Array:
    """Returns the camera's centre [3] in the world."""
    rotation, translation = (
        camera.world_to_camera[:3, :3],
        camera.world_to_camera[:3, 3],
    )
    return -rotation.T @ translation


def camera_angles(camera: Camera) -> tuple[jax.Array, jax.Array]:
    """Returns a camera's azimuth in (-180, 180] and elevation in [-90, 90], degrees."""
    x, y, z = camera_position(camera)
    elevation = jnp.arctan2(y, jnp.sqrt(x**2 + z**2))
    return jnp.rad2deg(jnp.arctan2(x, z)), jnp.rad2deg(elevation)


def random_orbits(
    key: jax.Array,
    count: int,
    orbit: OrbitRange,
    *,
    width: int,
    height: int,
    group: int = 1,
) -> Camera:
    """Draws a batch [count] of views, azimuth stratified over the batch.

    The stratification is threestudio's rule. Half of the elevations are uniform in
    degrees and half uniform on the sphere, as in DreamFusion (arXiv 2209.14988);
    `overhead_fraction` of them are redrawn in 60..85 degrees. group: so many views in a
    run are drawn together, at one elevation, distance and field of view, their azimuths
    evenly spread over the range from a random first (MVDream, arXiv 2308.16512);
    `count` must be a multiple of it.
    """
    azimuth, *rest = _random_angles(key, count // group, orbit)
    if group > 1:
        azimuth = _spread(azimuth, orbit.azimuth, group)
        rest = [jnp.repeat(values, group) for values in rest]
    build = partial(orbit_camera, width=width, height=height)
    return jax.vmap(lambda a, e, d, f: build(a, e, d, fov=f))(azimuth, *rest)


def _spread(first: jax.Array, interval: tuple[float, float], group: int) -> jax.Array:
    """Azimuths [n group]: from each of `first` [n] on, even steps round an interval."""
    low, high = interval
    steps = jnp.arange(group, dtype=first.dtype) * ((high - low) / group)
    turned = first[:, None] - low + steps
    return (low + jnp.mod(turned, high - low)).reshape(-1)


def _random_angles(key: jax.Array, count: int, orbit: OrbitRange):
    """Azimuth, elevation, distance and fov, each [count]; see `random_orbits`."""
    names = ("azimuth", "elevation", "sphere", "half", "distance", "fov", "over", "top")
    keys = dict(zip(names, jax.random.split(key, len(names))))
    low, high = orbit.azimuth
    shift = jax.random.uniform(keys["azimuth"], (count,))
    stratum = jnp.arange(count, dtype=shift.dtype) + shift
    azimuth = low + (high - low) * stratum / count
    low, high = orbit.elevation
    flat = jax.random.uniform(keys["elevation"], (count,), minval=low, maxval=high)
    sines = jnp.sin(jnp.deg2rad(jnp.array([low, high])))
    sine = jax.random.uniform(
        keys["sphere"], (count,), minval=sines[0], maxval=sines[1]
    )
    half = jax.random.bernoulli(keys["half"], 0.5, (count,))
    elevation = jnp.where(half, flat, jnp.rad2deg(jnp.arcsin(sine)))
    over = jax.random.bernoulli(keys["over"], orbit.overhead_fraction, (count,))
    top = jax.random.uniform(keys["top"], (count,), minval=60.0, maxval=85.0)
    elevation = jnp.where(over, top, elevation)
    distance = jax.random.uniform(
        keys["distance"], (count,), minval=orbit.distance[0], maxval=orbit.distance[1]
    )
    fov = jax.random.uniform(
        keys["fov"], (count,), minval=orbit.fov[0], maxval=orbit.fov[1]
    )
    if orbit.relative_distance:
        distance = fitted_distance(distance, fov)
    return azimuth, elevation, distance, fov


def pixel_rays(camera: Camera) -> tuple[jax.Array, jax.Array]:
    """Returns origins and unit directions [h, w, 3] (world) through pixel centres."""
    u, v = jnp.meshgrid(
        jnp.arange(camera.width, dtype=float) + 0.5,
        jnp.arange(camera.height, dtype=float) + 0.5,
        indexing="xy",
    )
    x = (u - camera.principal[0]) / camera.focal[0]
    y = (v - camera.principal[1]) / camera.focal[1]
    local = jnp.stack([x, y, jnp.ones_like(x)], axis=-1)
    directions = local @ camera.world_to_camera[:3, :3]
    directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    origins = jnp.broadcast_to(camera_position(camera), directions.shape)
    return origins, directions


def resize_camera(camera: Camera, width: int, height: int) -> Camera:
    """Returns the same view in so many pixels, width by height (a latent's, say)."""
    scale = jnp.array(
        [width / camera.width, height / camera.height], camera.focal.dtype
    )
    return dataclasses.replace(
        camera,
        focal=camera.focal * scale,
        principal=camera.principal * scale,
        width=width,
        height=height,
    )


def camera_numbers(camera: Camera) -> jax.Array:
    """Returns the 16 numbers [16] by which MVDream (arXiv 2308.16512) knows a camera.

    The camera-to-world matrix, row by row, of Blender's axes: world x right, y away
    from who looks at the object's front, z up; camera x right, y up, looking along its
    own -z. The translation is scaled to length 1. A world_to_camera of zeros (the null
    camera) gives zeros.
    """
    # our (x, y, z) is Blender's (x, -z, y); OpenCV's camera y and z point the other way
    to_blender = jnp.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    flip = jnp.array([[1.0, -1, -1]])
    rotation = to_blender @ camera.world_to_camera[:3, :3].T * flip
    place = to_blender @ camera_position(camera)
    length = jnp.sqrt(jnp.sum(place**2))
    place = place / jnp.where(length > 0, length, 1.0)
    top = jnp.concatenate([rotation, place[:, None]], axis=1)
    numbers = jnp.concatenate([top.reshape(-1), jnp.array([0.0, 0, 0, 1])])
    return jnp.where(jnp.any(camera.world_to_camera != 0), numbers, 0.0)


def plucker_rays(camera: Camera) -> jax.Array:
    """Returns Pluecker coordinates [h, w, 6] of rays through the pixel centres (world).

    Unit direction d and moment o x d, o any point of the ray; zeros for the null camera
    (a world_to_camera of zeros).
    """
    origins, directions = pixel_rays(camera)
    rays = jnp.concatenate([directions, jnp.cross(origins, directions)], axis=-1)
    return jnp.where(jnp.any(camera.world_to_camera != 0), rays, 0.0)
