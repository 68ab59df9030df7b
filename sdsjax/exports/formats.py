"""The formats an asset is exported to, by the names that `--formats` takes.

Splats: ply, glb (KHR_gaussian_splatting), spz. Meshes: mesh (UV and a PBR base colour
texture), mesh_colours (vertex colours). A radiance field has a mesh only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdsjax.exports import glb, mesh, ply, splat_files
from sdsjax.exports.texture import SIZE
from sdsjax.representations.gaussians import Gaussians


class Format(NamedTuple):
    """A format: the file's name, and what writes it of (path, splats or mesh).

    require: raises MissingExtra where the format's library is not installed.
    """

    file: str
    write: Callable[..., Path]
    require: Callable[[], object] = lambda: None


SPLATS = {
    "ply": Format("splats.ply", ply.write_splats),
    "glb": Format("splats.glb", splat_files.write_splats_glb),
    "spz": Format("splats.spz", splat_files.write_splats_spz, splat_files.import_gsply),
}
MESHES = {
    "mesh": Format("asset.glb", glb.write_mesh),
    "mesh_colours": Format("mesh.glb", glb.write_mesh),
}
FORMATS = SPLATS | MESHES
DEFAULT = ("ply", "glb", "mesh")


def write_formats(
    folder: Path,
    params: Any,
    formats: Sequence[str],
    *,
    mesh_resolution: int = 96,
    texture_size: int = SIZE,
    bound: float = 1.0,
) -> dict[str, Path]:
    """Writes an asset into `folder` in each of the formats; returns name -> path.

    params: Gaussians, or a field as a function of points (mesh.mesh_of_field) within
    `bound` world units; mesh_resolution: nodes of the grid's side; texture_size: px.
    Raises MeshError for an asset without a surface, PlyError for one without splats,
    MissingExtra where a format's library is not installed, before anything is written.
    """
    for name in formats:
        FORMATS[name].require()
    paths, solid = {}, None
    for name in formats:
        file, write, _ = FORMATS[name]
        if name in SPLATS:
            paths[name] = write(folder / file, params)
            continue
        solid = solid or _mesh(params, mesh_resolution, bound)
        options = {"uv": name == "mesh", "texture_size": texture_size}
        paths[name] = write(folder / file, solid, **options)
    return paths


def _mesh(params: Any, resolution: int, bound: float) -> mesh.Mesh:
    if isinstance(params, Gaussians):
        return mesh.extract_mesh(params, resolution=resolution)
    look: Callable[..., Any] = params
    return mesh.mesh_of_field(look, resolution=resolution, bound=bound)
