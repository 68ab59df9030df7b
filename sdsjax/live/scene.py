"""Puts assets and cameras into a page, and keeps them up to date.

What stands in the page keeps its place: a new shape of the same kind replaces the
arrays of the old one, so that a page neither flickers nor grows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sdsjax.cameras import Camera
from sdsjax.exports.density_grid import Splats
from sdsjax.exports.mesh import Mesh
from sdsjax.live.server import Server
from sdsjax.live.shapes import Points, Shape

# An asset fills the unit ball.
SPACING = 2.4
POINT_SIZE = 0.02
FRUSTUM = 0.12


def places(count: int) -> list[tuple[float, float, float]]:
    """Returns where so many assets stand side by side, around the origin."""
    first = -0.5 * SPACING * (count - 1)
    return [(first + SPACING * index, 0.0, 0.0) for index in range(count)]


class Stand:
    """A stand is an asset's place in the page, below the scene's node `name`."""

    def __init__(
        self,
        server: Server,
        name: str,
        position: tuple[float, float, float] = (0.0, 0.0, 0.0),
        label: str = "",
    ):
        self._server, self._name = server, name
        self.frame = server.scene.add_frame(name, show_axes=False, position=position)
        self._handle: Any = None
        self._kind: type | None = None
        if label:
            server.scene.add_label(f"{name}/label", label, position=(0.0, -1.15, 0.0))

    def show(self, shape: Shape) -> None:
        """Shows a shape in the place of the one before."""
        handle, kind = self._handle, self._kind
        if handle is not None and kind is Splats and isinstance(shape, Splats):
            handle.set_gaussians(**_gaussians(shape))
            return
        if handle is not None:
            handle.remove()
        self._kind, self._handle = type(shape), self._added(shape)

    def _added(self, shape: Shape) -> Any:
        scene, name = self._server.scene, f"{self._name}/asset"
        if isinstance(shape, Splats):
            return scene.add_gaussian_splats(name, **_gaussians(shape))
        if isinstance(shape, Mesh):
            import trimesh

            solid = trimesh.Trimesh(
                shape.vertices,
                shape.faces,
                vertex_colors=np.round(255 * shape.colours).astype(np.uint8),
                process=False,
            )
            return scene.add_mesh_trimesh(name, solid)
        assert isinstance(shape, Points)
        return scene.add_point_cloud(
            name,
            shape.means.astype(np.float32),
            np.round(255 * shape.colours).astype(np.uint8),
            point_size=POINT_SIZE,
            point_shape="circle",
        )


def _gaussians(splats: Splats) -> dict[str, np.ndarray]:
    return {
        "centers": splats.means.astype(np.float32),
        "covariances": splats.covariances.astype(np.float32),
        "rgbs": splats.colours.astype(np.float32),
        "opacities": splats.opacities[:, None].astype(np.float32),
    }


class Frusta:
    """The frusta of a step's cameras, drawn close to where they look from."""

    def __init__(self, server: Server, name: str = "/cameras"):
        self._server, self._name = server, name
        self._handles: list[Any] = []
        self.visible = True

    def show(self, cameras: Camera) -> None:
        """Shows a batch of cameras [n] in the place of those before."""
        poses = np.asarray(cameras.world_to_camera, np.float64)
        focals = np.asarray(cameras.focal, np.float64)
        for handle in self._handles[len(poses) :]:
            handle.remove()
        del self._handles[len(poses) :]
        for index, (pose, focal) in enumerate(zip(poses, focals)):
            turn = pose[:3, :3].T
            at = {"wxyz": quaternion(turn), "position": -turn @ pose[:3, 3]}
            lens = {
                "fov": 2 * math.atan(0.5 * cameras.height / focal[1]),
                "aspect": cameras.width / cameras.height,
            }
            if index == len(self._handles):
                name = f"{self._name}/{index}"
                self._handles.append(
                    self._server.scene.add_camera_frustum(
                        name, **lens, **at, scale=FRUSTUM, visible=self.visible
                    )
                )
                continue
            for key, value in (lens | at).items():
                setattr(self._handles[index], key, value)

    def set_visible(self, visible: bool) -> None:
        """Shows or hides all of them, and those to come."""
        self.visible = visible
        for handle in self._handles:
            handle.visible = visible


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Turns a rotation [3 3] into its unit quaternion w x y z, w >= 0.

    By the largest of its four components, which is never near zero (Shepperd, 1978).
    """
    trace = np.trace(rotation)
    squares = np.array([trace, *np.diag(rotation)])
    first = int(squares.argmax())
    if first == 0:
        found = np.array(
            [
                1 + trace,
                rotation[2, 1] - rotation[1, 2],
                rotation[0, 2] - rotation[2, 0],
                rotation[1, 0] - rotation[0, 1],
            ]
        )
    else:
        i = first - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        found = np.empty(4)
        found[0] = rotation[k, j] - rotation[j, k]
        found[1 + i] = 1 + rotation[i, i] - rotation[j, j] - rotation[k, k]
        found[1 + j] = rotation[j, i] + rotation[i, j]
        found[1 + k] = rotation[k, i] + rotation[i, k]
    found /= np.linalg.norm(found)
    return found if found[0] >= 0 else -found
