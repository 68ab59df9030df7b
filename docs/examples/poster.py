"""A poster of vector shapes: soft discs on paper, painted one over the other.

    python docs/examples/poster.py

There is no camera: the prompt is read without view words, and `render` is given None.
"""

import jax
import jax.numpy as jnp
import optax
from distilling import arguments, save

import sdsjax

SHAPES, SIZE = 96, 64


# begin: the renderer, the caller's own
def render(shapes, camera):
    y, x = jnp.mgrid[:SIZE, :SIZE] / SIZE
    pixels = jnp.stack([x, y], -1)

    def paint(rgb, shape):
        place, size, turn, colour, opacity = shape
        turned = jnp.array([[1, turn], [-turn, 1]]) / jnp.sqrt(1 + turn**2)
        reach = jnp.linalg.norm(
            (pixels - place) @ turned / jnp.exp(size) + 1e-6, axis=-1
        )
        cover = jax.nn.sigmoid(12 * (1 - reach)) * jax.nn.sigmoid(opacity)
        return rgb + cover[..., None] * (jax.nn.sigmoid(colour) - rgb), None

    return jax.lax.scan(paint, jnp.ones((SIZE, SIZE, 3)), shapes)[0]


# end
def main(steps: int = 300, prompt: str = "a yellow duck"):
    key_place, key_colour = jax.random.split(jax.random.key(0))
    shapes = (
        jax.random.uniform(key_place, (SHAPES, 2), minval=0.2, maxval=0.8),
        jnp.full((SHAPES, 2), jnp.log(0.07)),
        jnp.zeros(SHAPES),
        0.5 * jax.random.normal(key_colour, (SHAPES, 3)),
        jnp.zeros(SHAPES),
    )
    # begin: distillation
    prior = sdsjax.load_prior(prompt, "toybox-sd", view_prompts=False)
    adam = optax.adam(0.02, b2=0.99)

    @jax.jit
    def step(shapes, moments, key, prior):
        draws = jax.vmap(
            lambda key: (
                sdsjax.distill(
                    render,
                    shapes,
                    None,
                    key,
                    prior=prior,
                    estimator="ssd",
                    threshold=500,
                ).grads
            )
        )(jax.random.split(key, 4))
        grads = jax.tree.map(lambda g: g.mean(0), draws)
        updates, moments = adam.update(grads, moments)
        return optax.apply_updates(shapes, updates), moments

    moments = adam.init(shapes)
    for i in range(steps):
        shapes, moments = step(shapes, moments, jax.random.key(i), prior)
    # end
    return shapes


if __name__ == "__main__":
    asked = arguments(__doc__)
    save(render(main(**asked.settings), None), asked.out)
