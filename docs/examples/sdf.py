"""A signed distance on a grid, rendered as a volume.

    python docs/examples/sdf.py

Density follows the distance by a logistic curve, as in NeuS and VolSDF (arXiv
2106.10689, 2106.12052).
"""

import jax
import jax.numpy as jnp
import optax
from distilling import arguments, save_views
from jax.scipy.ndimage import map_coordinates

import sdsjax
from sdsjax.cameras import OrbitRange, pixel_rays, random_orbits

NODES, SAMPLES = 32, 48


# begin: the renderer, the caller's own
def at(grid, points):
    where = (points + 1) / 2 * (NODES - 1)
    return map_coordinates(grid, list(jnp.moveaxis(where, -1, 0)), 1, "nearest")


def render(params, camera):
    origins, directions = pixel_rays(camera)
    middle = jnp.linalg.norm(origins[0, 0])
    step = 2.0 / SAMPLES
    depths = middle - 1 + step * (jnp.arange(SAMPLES) + 0.5)
    points = origins[..., None, :] + depths[:, None] * directions[..., None, :]
    distance = at(params["distance"], points)
    thickness = step * 25 * jax.nn.sigmoid(-distance / 0.03)
    before = jnp.cumsum(thickness, -1) - thickness
    weights = jnp.exp(-before) * (1 - jnp.exp(-thickness))
    channels = jnp.moveaxis(params["colours"], -1, 0)
    rgb = jax.vmap(at, (0, None), -1)(jax.nn.sigmoid(channels), points)
    rgb = (weights[..., None] * rgb).sum(-2)
    return rgb + 1 - weights.sum(-1, keepdims=True)


# end
def main(steps: int = 150, prompt: str = "a red snowman", size: int = 32):
    axis = jnp.linspace(-1, 1, NODES)
    radius = jnp.sqrt(sum(x**2 for x in jnp.meshgrid(axis, axis, axis)) + 1e-9)
    params = {
        "distance": radius - 0.5,
        "colours": jnp.zeros((NODES, NODES, NODES, 3)),
    }
    # begin: distillation
    prior = sdsjax.load_prior(prompt, "toybox-mv")
    # eps: where almost no ray meets anything, Adam would turn rounding into full steps
    rates = {
        "distance": optax.adam(0.01, eps=1e-3),
        "colours": optax.adam(0.1, eps=1e-5),
    }
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
