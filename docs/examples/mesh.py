"""A triangle mesh that learns vertices and colours, through a soft rasteriser.

    python docs/examples/mesh.py

A face covers a pixel by the sigmoid of the distance to its nearest edge; faces blend by
nearness (Soft Rasterizer, arXiv 1904.01786).
"""

import jax
import jax.numpy as jnp
import optax
import trimesh
from distilling import arguments, save_views

import sdsjax
from sdsjax.cameras import OrbitRange, random_orbits

BALL = trimesh.creation.icosphere(subdivisions=2, radius=0.6)
FACES, CORNERS = jnp.asarray(BALL.faces), jnp.asarray(BALL.vertices, jnp.float32)
LINKS = jnp.eye(len(CORNERS)).at[tuple(BALL.edges.T)].set(1.0)
SMOOTH = jnp.linalg.matrix_power(LINKS / LINKS.sum(1, keepdims=True), 4)


# begin: the renderer, the caller's own
def cross(u, v):
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def render(params, camera):
    pose = camera.world_to_camera
    vertices = CORNERS + SMOOTH @ params["offsets"]
    local = vertices @ pose[:3, :3].T + pose[:3, 3]
    screen = local[:, :2] / local[:, 2:] * camera.focal + camera.principal
    corners = screen[FACES]  # [f 3 2]
    edges = jnp.roll(corners, -1, 1) - corners
    y, x = jnp.mgrid[: camera.height, : camera.width] + 0.5
    pixels = jnp.stack([x, y], -1).reshape(-1, 1, 1, 2)
    areas = cross(edges, pixels - corners)  # [p f 3], of the parts of a face, twice
    total = areas.sum(-1)  # of a face in pixels, positive where it faces the camera
    lengths = jnp.sqrt(jnp.sum(edges**2, -1) + 1e-6)
    height = jnp.clip(total / lengths.max(-1), 0, 1)  # a face seen edge-on fades
    cover = jax.nn.sigmoid(4 * (areas / lengths).min(-1)) * height
    weights = jax.nn.relu(jnp.roll(areas, -1, -1)) + 1e-6
    weights /= weights.sum(-1, keepdims=True)
    depth = (weights * local[FACES, 2]).sum(-1)
    near = cover * jax.nn.softmax(-depth / 0.02, axis=1) + 1e-12
    near /= near.sum(1, keepdims=True)
    colours = jax.nn.sigmoid(params["colours"])[FACES]
    rgb = jnp.einsum("pf,pfi,fic->pc", near, weights, colours)
    opacity = 1 - jnp.prod(1 - cover, 1)[:, None]
    return (opacity * rgb + 1 - opacity).reshape(camera.height, camera.width, 3)


# end
def main(steps: int = 150, prompt: str = "a yellow duck", size: int = 32):
    params = {"offsets": jnp.zeros_like(CORNERS), "colours": jnp.zeros_like(CORNERS)}
    # begin: distillation
    prior = sdsjax.load_prior(prompt, "toybox-mv")
    rates = {"offsets": optax.adam(0.01), "colours": optax.adam(0.1)}
    adam = optax.multi_transform(rates, {name: name for name in rates})

    @jax.jit
    def step(params, moments, key, prior):
        cameras = random_orbits(key, 4, OrbitRange(), width=size, height=size, group=4)
        found = sdsjax.distill(
            render, params, cameras, key, prior=prior, estimator="ssd", threshold=500
        )
        updates, moments = adam.update(found.grads, moments)
        return optax.apply_updates(params, updates), moments

    moments = adam.init(params)
    for i in range(steps):
        params, moments = step(params, moments, jax.random.key(i), prior)
    # end
    return params


if __name__ == "__main__":
    asked = arguments(__doc__)
    save_views(render, main(**asked.settings), asked.out)
