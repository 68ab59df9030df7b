"""Gaussian splats as glTF (KHR_gaussian_splatting) and as SPZ.

glTF: the extension that Khronos ratified in 2026. One primitive of POINTS; POSITION;
KHR_gaussian_splatting:ROTATION, unit quaternions x y z w; :SCALE, linear; :OPACITY in
[0, 1]; :SH_DEGREE_l_COEF_n, rgb; COLOR_0, the colour of degree 0 and the opacity, for
readers that know points alone. y up, front +z, as glTF has it. trimesh writes the file.

SPZ: Niantic's compressed format, a tenth of the size (positions to 1 / 4096 units, all
else to eight bits); its axes are right, up, back, which are ours. gsply (MIT) writes
it, the extra `spz`: its numba weighs 200 MB.
"""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from sdsjax.exports.ply import PlyError, living_rows
from sdsjax.files.atomic import replacing, write_bytes
from sdsjax.render.spherical_harmonics import C0
from sdsjax.representations.gaussians import Gaussians
from sdsjax.runs.exit_status import ExitStatus

EXTENSION = "KHR_gaussian_splatting"
FLOAT = 5126  # glTF's number of the component type
TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
MOST_COEFFICIENTS = 16  # degree 3, the highest of both formats


class MissingExtra(RuntimeError):
    """An extra that writes a format is not installed; the message is one line."""

    exit_code = ExitStatus.MISTAKE


def _rows(path: str | os.PathLike, gaussians: Gaussians) -> dict[str, np.ndarray]:
    rows = living_rows(gaussians, path)
    count = rows["sh"].shape[1]
    if count > MOST_COEFFICIENTS:
        raise PlyError(f"{path}: {count} SH coefficients; this format has at most 16")
    length = np.linalg.norm(rows["quats"], axis=1, keepdims=True)
    unit = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
    rows["quats"] = np.where(
        length > 0, rows["quats"] / np.where(length > 0, length, 1), unit
    )
    return rows


def _attributes(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the extension's attributes, by semantic, as arrays [n m]."""
    opacity = 1.0 / (1.0 + np.exp(-rows["opacity_logits"].reshape(-1, 1)))
    found = {
        "ROTATION": np.roll(rows["quats"], -1, axis=1),
        "SCALE": np.exp(rows["log_scales"]),
        "OPACITY": opacity,
    }
    for index in range(rows["sh"].shape[1]):
        degree = math.isqrt(index)
        name = f"SH_DEGREE_{degree}_COEF_{index - degree**2}"
        found[name] = rows["sh"][:, index]
    return {
        f"{EXTENSION}:{name}": np.ascontiguousarray(values, "<f4")
        for name, values in found.items()
    }


def write_splats_glb(path: str | os.PathLike, gaussians: Gaussians) -> Path:
    """Writes the alive rows as binary glTF, in one step. Returns the path.

    Raises PlyError when nothing is alive or a value is not finite.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb

    rows = _rows(path, gaussians)
    attributes = _attributes(rows)
    opacity = attributes[f"{EXTENSION}:OPACITY"]
    rgba = np.concatenate([np.clip(C0 * rows["sh"][:, 0] + 0.5, 0, 1), opacity], axis=1)
    points = trimesh.PointCloud(
        rows["means"], colors=np.round(255 * rgba).astype(np.uint8)
    )

    def add_attributes(buffers: Any, tree: dict[str, Any]) -> None:
        # trimesh knows points with colours; the rest is put beside them in its tree
        (primitive,) = tree["meshes"][0]["primitives"]
        primitive.pop("material", None)
        tree["materials"].clear()
        for name, values in attributes.items():
            buffers[name] = values.tobytes()
            tree["accessors"][name] = {
                "bufferView": len(buffers) - 1,
                "componentType": FLOAT,
                "count": len(values),
                "type": TYPES[values.shape[1]],
            }
            primitive["attributes"][name] = len(tree["accessors"]) - 1
        primitive["extensions"] = {
            EXTENSION: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "sortingMethod": "cameraDistance",
                "projection": "perspective",
            }
        }
        used = tree.setdefault("extensionsUsed", [])
        used.append(EXTENSION)

    content = export_glb(trimesh.Scene(points), buffer_postprocessor=add_attributes)
    return write_bytes(path, content)


def import_gsply():
    """Returns the library that writes SPZ. Raises MissingExtra where there is none."""
    try:
        return importlib.import_module("gsply")
    except ImportError:
        raise MissingExtra(
            "SPZ needs the extra spz: pip install 'sdsjax[spz]'"
        ) from None


def write_splats_spz(path: str | os.PathLike, gaussians: Gaussians) -> Path:
    """Writes the alive rows as SPZ (version 3), in one step. Returns the path.

    Raises PlyError when nothing is alive or a value is not finite, and MissingExtra
    without gsply.
    """
    gsply = import_gsply()
    rows = _rows(path, gaussians)
    data = gsply.GSData.from_arrays(
        rows["means"],
        rows["log_scales"],
        rows["quats"],
        rows["opacity_logits"].reshape(-1),
        rows["sh"][:, 0],
        rows["sh"][:, 1:] if rows["sh"].shape[1] > 1 else None,
        format="ply",
    )
    with replacing(path) as partial:
        gsply.write_spz(partial, data)
    return Path(path)
