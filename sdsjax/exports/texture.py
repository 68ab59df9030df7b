"""A texture instead of vertex colours: UV charts by xatlas, colours baked into texels.

uv [n 2] in [0, 1], v up (glTF's flip happens in trimesh); texel (row, column) of an
image of side T has its centre at u = (column + .5) / T, v = 1 - (row + .5) / T. A
face is filled with a barycentric lattice of two samples a texel; texels that no face
covers take the mean of their filled neighbours, a few times over, so that filtering
does not bleed the background into the seams.
"""

from __future__ import annotations

import numpy as np

from sdsjax.exports.mesh import Mesh

MARGIN = 6
SAMPLES_A_TEXEL = 2.0


def unwrap(mesh: Mesh) -> tuple[Mesh, np.ndarray]:
    """The mesh cut along its charts' seams, and uv [n 2] of its vertices."""
    import xatlas

    faces = np.asarray(mesh.faces, np.uint32)
    origin, indices, uv = xatlas.parametrize(mesh.vertices, faces)
    # xatlas gives a face without area no chart: all its corners stand at 0, where they
    # would be painted over one another. It shows nothing, and is left out.
    charted = np.any(uv[indices] != 0, axis=(1, 2))
    used, indices = np.unique(indices[charted], return_inverse=True)
    origin, indices = origin[used], indices.reshape(-1, 3)
    return Mesh(mesh.vertices[origin], indices, mesh.colours[origin]), uv[used]


def _lattice(count: int) -> np.ndarray:
    """Returns barycentric weights [m 3] of a triangular lattice, `count` + 1 points a
    side."""
    i, j = np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij")
    inside = i + j <= count
    a, b = i[inside] / count, j[inside] / count
    return np.stack([a, b, 1 - a - b], axis=1)


def _spread(texture: np.ndarray, filled: np.ndarray) -> None:
    """Grows the filled texels by MARGIN into their neighbours, in place."""
    for _ in range(MARGIN):
        total, count = np.zeros_like(texture), np.zeros(filled.shape)
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            near = np.roll(filled, shift, axis)
            total += np.roll(texture, shift, axis) * near[..., None]
            count += near
        grown = (count > 0) & ~filled
        texture[grown] = total[grown] / count[grown][:, None]
        filled |= grown


def bake(mesh: Mesh, uv: np.ndarray, size: int) -> np.ndarray:
    """The colours of a mesh as a texture `[size size 3]`, display values in [0, 1]."""
    at = np.stack([(1 - uv[:, 1]) * size, uv[:, 0] * size], axis=1)[mesh.faces]
    edges = np.linalg.norm(at - np.roll(at, 1, axis=1), axis=2).max(axis=1)
    counts = np.ceil(SAMPLES_A_TEXEL * edges).astype(int).clip(1)
    counts = 2 ** np.ceil(np.log2(counts)).astype(int)
    total, hits = np.zeros((size * size, 3)), np.zeros(size * size)
    for count in np.unique(counts):
        weights = _lattice(count)
        rows = np.flatnonzero(counts == count)
        for part in np.array_split(rows, -(-len(rows) * len(weights) // (1 << 20))):
            texel = np.einsum("mk,fkd->fmd", weights, at[part]).reshape(-1, 2)
            rgb = np.einsum("mk,fkd->fmd", weights, mesh.colours[mesh.faces[part]])
            row, column = texel.astype(int).clip(0, size - 1).T
            index = row * size + column
            hits += np.bincount(index, minlength=size * size)
            for channel in range(3):
                total[:, channel] += np.bincount(
                    index, rgb[..., channel].ravel(), size * size
                )
    filled = (hits > 0).reshape(size, size)
    texture = (total / np.maximum(hits, 1)[:, None]).reshape(size, size, 3)
    _spread(texture, filled)
    return texture


def textured(mesh: Mesh, *, size: int = 1024):
    """A trimesh.Trimesh with a matte material and the mesh's colours as its texture."""
    import trimesh
    from PIL import Image

    cut, uv = unwrap(mesh)
    picture = np.round(255 * np.clip(bake(cut, uv, size), 0, 1)).astype(np.uint8)
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(picture),
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(cut.vertices, cut.faces, visual=visual, process=False)
