"""Scenes: what a caption fixes, as padded arrays built on the host.

Materials: 0 the caption's first colour, 1 its second, 2 + i the i-th of `PAINTS`.
World frame: y up, front along +z, inside the ball of radius `EXTENT`.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from sdsjax.toybox.world.objects import CAPTION, KINDS, PAINTS, Part
from sdsjax.toybox.world.primitives import SIZE_LENGTH, TYPE_INDEX, support

EXTENT = 0.92  # radius that every scene reaches
PADDED = 24  # primitives a scene has room for
TOP_SCALE = 0.85  # an object's scale relative to the base under it
PAINT_RGB = np.asarray([(0, 0, 0), (0, 0, 0), *PAINTS.values()], np.float32)


class SceneSpec(NamedTuple):
    """What a caption says: a kind in a colour, and what it stands on (or None)."""

    kind: str
    color: str
    base_kind: str | None = None
    base_color: str | None = None


class Scene(NamedTuple):
    """A scene's primitives, padded to P = `PADDED`.

    Fields:
        shape: [P] int32, index into `primitives.DISTANCES`.
        size: [P, SIZE_LENGTH] lengths.
        rotation: [P, 3, 3] primitive frame to world.
        position: [P, 3] world.
        bound: [P] radius of a ball around `position` that holds the primitive.
        material: [P] int32.
        count: [] int32, how many of the P are real.
    """

    shape: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    position: np.ndarray
    bound: np.ndarray
    material: np.ndarray
    count: np.ndarray


class _Solid(NamedTuple):
    """One primitive on the host, in float64."""

    shape: str
    size: np.ndarray
    rotation: np.ndarray
    position: np.ndarray
    paint: str


def _rotation(turn):
    """Degrees about x, then y, then z -> [3, 3]."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _solids(parts: tuple[Part, ...]) -> list[_Solid]:
    flip = np.diag([-1.0, 1.0, 1.0])
    solids = []
    for part in parts:
        size = np.zeros(SIZE_LENGTH)
        size[: len(part.size)] = part.size
        rotation, at = _rotation(part.turn), np.asarray(part.at, np.float64)
        solids.append(_Solid(part.shape, size, rotation, at, part.paint))
        if part.pair:
            mirrored = size.copy()
            if part.shape == "frustum":
                mirrored[5] *= -1  # the only shape that is not its own mirror image
            solids.append(
                _Solid(
                    part.shape, mirrored, flip @ rotation @ flip, flip @ at, part.paint
                )
            )
    return solids


def _reach(solids, directions):
    """[n] support of a union of solids along directions [n, 3]."""
    reaches = [
        support(s.shape, s.size, directions @ s.rotation) + directions @ s.position
        for s in solids
    ]
    return np.max(reaches, axis=0)


def _sphere_directions(count=1024):
    """[count, 3] a Fibonacci lattice on the unit sphere."""
    index = np.arange(count) + 0.5
    y = 1 - 2 * index / count
    angle = np.pi * (1 + 5**0.5) * index
    flat = np.sqrt(1 - y * y)
    return np.stack([flat * np.cos(angle), y, flat * np.sin(angle)], axis=-1)


def _box(solids):
    """(lowest, highest) corner of the bounding box, [3] each."""
    return -_reach(solids, -np.eye(3)), _reach(solids, np.eye(3))


def _moved(solids, scale, offset):
    return [
        s._replace(size=s.size * scale, position=s.position * scale + offset)
        for s in solids
    ]


def _fitted(solids, extent=EXTENT):
    """Centred at the bounding box's middle, reaching `extent` from there."""
    low, high = _box(solids)
    solids = _moved(solids, 1.0, -(low + high) / 2)
    return _moved(solids, extent / _reach(solids, _sphere_directions()).max(), 0.0)


@cache
def _geometry(kind: str, base_kind: str | None) -> tuple[tuple[_Solid, ...], int]:
    """The solids of a scene and how many of them belong to the object."""
    solids = _fitted(_solids(KINDS[kind]))
    own = len(solids)
    if base_kind is not None:
        base = _fitted(_solids(KINDS[base_kind]))
        top = _moved(solids, TOP_SCALE, 0.0)
        lift = _box(base)[1] * [0, 1, 0] - _box(top)[0] * [0, 1, 0]
        solids = _fitted(_moved(top, 1.0, lift) + base)
    return tuple(solids), own


def build_scene(spec: SceneSpec) -> Scene:
    """Builds the arrays of a spec; colours do not matter here.

    Raises:
        ValueError: for an unknown kind, naming it.
    """
    for kind in (spec.kind, spec.base_kind):
        if kind is not None and kind not in KINDS:
            raise ValueError(
                f"unknown toybox kind {kind!r}; allowed: {', '.join(sorted(KINDS))}"
            )
    solids, own = _geometry(spec.kind, spec.base_kind)
    paints = list(PAINTS)
    scene = Scene(
        shape=np.zeros(PADDED, np.int32),
        size=np.ones((PADDED, SIZE_LENGTH), np.float32),
        rotation=np.tile(np.eye(3, dtype=np.float32), (PADDED, 1, 1)),
        position=np.zeros((PADDED, 3), np.float32),
        bound=np.zeros(PADDED, np.float32),
        material=np.zeros(PADDED, np.int32),
        count=np.asarray(len(solids), np.int32),
    )
    directions = _sphere_directions()
    for i, solid in enumerate(solids):
        scene.shape[i] = TYPE_INDEX[solid.shape]
        scene.size[i] = solid.size
        scene.rotation[i] = solid.rotation
        scene.position[i] = solid.position
        # 1%: the lattice of directions may miss the farthest corner by a little
        scene.bound[i] = 1.01 * support(solid.shape, solid.size, directions).max()
        own_color = 0 if i < own else 1
        scene.material[i] = (
            own_color if solid.paint == CAPTION else 2 + paints.index(solid.paint)
        )
    return scene


def stack_scenes(scenes) -> Scene:
    """Scenes with a leading batch axis on every field."""
    return Scene(*(np.stack(field) for field in zip(*scenes, strict=True)))
