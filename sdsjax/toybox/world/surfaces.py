"""True surfaces of scenes: meshes by marching cubes, and surface points for Chamfer.

World frame and units; triangles are counter-clockwise seen from outside.
"""

import jax
import jax.numpy as jnp
import numpy as np
from skimage.measure import marching_cubes

from sdsjax.toybox.world.objects import COLORS
from sdsjax.toybox.world.renderer import sdf, surface_normals
from sdsjax.toybox.world.scene import PAINT_RGB, Scene, SceneSpec

_HALF_WIDTH = 1.02  # of the sampled cube: the unit ball and a rim of outside
_CHUNK = 1 << 16  # points evaluated at a time

_distance = jax.jit(sdf)
_normals = jax.jit(surface_normals)


def _evaluate(scene: Scene, points):
    """sdf of host points [n, 3], in chunks of one shape: (distance, material)."""
    padded = -len(points) % _CHUNK
    chunks = np.pad(points, ((0, padded), (0, 0))).reshape(-1, _CHUNK, 3)
    results = [jax.device_get(_distance(scene, chunk)) for chunk in chunks]
    distance, material = (np.concatenate(part) for part in zip(*results, strict=True))
    return distance[: len(points)], material[: len(points)]


def _triangles(scene: Scene, resolution: int):
    """(vertices [v, 3], faces [f, 3]) of the zero set."""
    axis = np.linspace(-_HALF_WIDTH, _HALF_WIDTH, resolution, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    distance, _ = _evaluate(scene, grid.reshape(-1, 3))
    # a grid point exactly on the surface would make triangles without area
    distance = np.where(np.abs(distance) < 1e-5, 1e-5, distance)
    step = float(axis[1] - axis[0])
    vertices, faces, _, _ = marching_cubes(
        distance.reshape((resolution,) * 3),
        0.0,
        spacing=(step,) * 3,
        gradient_direction="descent",
    )
    return (vertices - _HALF_WIDTH).astype(np.float32), faces.astype(np.int32)


def scene_mesh(scene: Scene, spec: SceneSpec, resolution: int = 96):
    """A watertight coloured mesh of a scene.

    Args:
        scene: `build_scene(spec)`.
        spec: says the two colours.
        resolution: samples along each side of the cube; parts thinner than about
            2 / resolution may be lost.

    Returns:
        vertices [v, 3] float32, faces [f, 3] int32, vertex rgb [v, 3] float32.

    Raises:
        ValueError: for a resolution under 8.
    """
    if resolution < 8:
        raise ValueError(f"mesh resolution is {resolution}; allowed: 8 or more")
    vertices, faces = _triangles(scene, resolution)
    _, material = _evaluate(scene, vertices)
    palette = PAINT_RGB.copy()
    palette[0] = COLORS[spec.color]
    palette[1] = COLORS[spec.base_color or spec.color]
    return vertices, faces, palette[material]


def surface_points(scene: Scene, n: int, seed: int = 0, resolution: int = 96):
    """Draws points on the true surface of a scene, uniform by area.

    [n, 3] float32, world units. Drawn on the mesh's triangles, then walked along the
    normal onto the zero set.
    """
    vertices, faces = _triangles(scene, resolution)
    corners = vertices[faces]  # [f, 3, 3]
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(faces), size=n, p=area / area.sum())
    # the square root makes barycentric coordinates uniform over the triangle
    root, along = np.sqrt(rng.random(n)), rng.random(n)
    weights = np.stack([1 - root, root * (1 - along), root * along], axis=-1)
    points = jnp.asarray(np.einsum("nc,nca->na", weights, corners[chosen]), jnp.float32)
    for _ in range(3):
        distance, _ = _distance(scene, points)
        points = points - distance[:, None] * _normals(scene, points)
    return np.asarray(points)
