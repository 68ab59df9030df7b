"""Meshes as binary glTF 2.0, with vertex colours or a baked texture.

y up, front +z as here; vertex colours are linear; the texture is texture.py's.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sdsjax.exports.mesh import Mesh
from sdsjax.exports.texture import SIZE, textured
from sdsjax.files.atomic import write_bytes


def linear_from_display(rgb: np.ndarray) -> np.ndarray:
    """Undoes sRGB's transfer function (IEC 61966-2-1): glTF wants linear colours."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _write_glb(path: str | os.PathLike, solid) -> Path:
    content = solid.export(file_type="glb", include_normals=True)
    return write_bytes(path, content)


def write_mesh(
    path: str | os.PathLike, mesh: Mesh, *, uv: bool = False, texture_size: int = SIZE
) -> Path:
    """Writes a binary glTF: vertex colours, or with `uv` a baked texture.

    texture_size: px of the texture's side.

    With vertex colours the file names no material: common readers (trimesh among them)
    drop a primitive's colours as soon as it has one.
    """
    import trimesh

    if uv:
        return _write_glb(path, textured(mesh, size=texture_size))
    linear = np.round(255 * linear_from_display(mesh.colours)).astype(np.uint8)
    opaque = np.full((len(linear), 1), 255, np.uint8)
    solid = trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_colors=np.concatenate([linear, opaque], axis=1),
        process=False,
    )
    return _write_glb(path, solid)
