"""The report's 3D viewer: splats and mesh as base64 beside a small WebGL script.

Splats: float32 rows of 13: centre 3, covariance 6 (xx xy xz yy yz zz), colour 3,
opacity 1. Mesh: uint16 positions in a box (value = low + step * q), then uint32 indices
from `faces_at`, then uint8 colours from `colours_at`, in bytes.
"""

from __future__ import annotations

import base64
import json
from html import escape
from importlib import resources

import numpy as np

from sdsjax.exports.density_grid import SH_C0, rotation_matrices
from sdsjax.exports.mesh import Mesh
from sdsjax.representations.gaussians import Gaussians

# A browser sorts this many splats a frame without stutter.
MAX_SPLATS = 60_000
MAX_FACES = 400_000


def text_of(name: str) -> str:
    """A text file that stands beside this module."""
    return resources.files("sdsjax.exports").joinpath(name).read_text("utf-8")


def pack_splats(gaussians: Gaussians, limit: int = MAX_SPLATS) -> bytes:
    """The alive splats, the most visible `limit` of them, as float32 rows of 13."""
    host = {k: np.asarray(v, np.float64) for k, v in gaussians._asdict().items()}
    opacities = 1.0 / (1.0 + np.exp(-host["opacity_logits"].reshape(-1)))
    keep = (host["alive"] > 0) & (opacities > 1 / 255)
    keep &= np.isfinite(host["means"]).all(axis=1)
    order = np.flatnonzero(keep)
    if len(order) > limit:
        area = opacities * np.exp(2 * host["log_scales"].max(axis=1))
        order = order[np.argsort(-area[order])[:limit]]
    rotations = rotation_matrices(host["quats"][order])
    axes = rotations * np.exp(host["log_scales"][order])[:, None, :]
    covariances = axes @ axes.transpose(0, 2, 1)
    rows = np.concatenate(
        [
            host["means"][order],
            covariances[:, *np.triu_indices(3)],
            np.maximum(SH_C0 * host["sh"][order, 0] + 0.5, 0.0),
            opacities[order, None],
        ],
        axis=1,
    )
    return rows.astype("<f4").tobytes()


def pack_mesh(mesh: Mesh) -> tuple[bytes, dict]:
    """The mesh as bytes and the numbers that unpack it."""
    low = mesh.vertices.min(axis=0)
    step = max(float((mesh.vertices.max(axis=0) - low).max()), 1e-9) / 65535
    positions = np.round((mesh.vertices - low) / step).astype("<u2").tobytes()
    positions += b"\0" * (-len(positions) % 4)
    faces = np.ascontiguousarray(mesh.faces, "<u4").tobytes()
    colours = np.round(255 * np.clip(mesh.colours, 0, 1)).astype(np.uint8).tobytes()
    box = {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "low": [float(v) for v in low],
        "step": step,
        "faces_at": len(positions),
        "colours_at": len(positions) + len(faces),
    }
    return positions + faces + colours, box


def _embedded(name: str, content: bytes) -> str:
    text = base64.b64encode(content).decode("ascii")
    return f'<script type="text/plain" id="{name}">{text}</script>'


def viewer_html(
    gaussians: Gaussians | None,
    mesh: Mesh | None,
    *,
    resolution: int,
    fov: float = 40.0,
) -> str:
    """The viewer's figure with everything it needs; empty when there is nothing.

    resolution: px that the splats were fitted at (their low-pass follows); fov: deg.
    """
    settings: dict = {"resolution": resolution, "fov": fov}
    pieces = []
    if gaussians is not None and (splats := pack_splats(gaussians)):
        pieces.append(_embedded("splats-bytes", splats))
    if mesh is not None and len(mesh.faces) <= MAX_FACES:
        packed, settings["mesh"] = pack_mesh(mesh)
        pieces.append(_embedded("mesh-bytes", packed))
    if not pieces:
        return ""
    buttons = "".join(
        f'<button type="button" data-mode="{mode}">{mode}</button>'
        for mode in ("splats", "mesh", "normals")
    )
    return (
        f'<figure id="viewer" data-settings="{escape(json.dumps(settings))}">'
        '<canvas width="480" height="480" tabindex="0" '
        'aria-label="3D viewer: drag to turn, scroll to zoom"></canvas>'
        f'<div class="bar">{buttons}<span class="note">drag to turn, scroll to zoom'
        "</span></div></figure>"
        + "".join(pieces)
        + f"<script>{text_of('viewer.js')}</script>"
    )
