"""A prior of one's own: flat pictures of one colour, whose scores are exact."""

import jax
import jax.numpy as jnp

import sdsjax
from sdsjax.diffusion import NoiseSchedule
from sdsjax.types import NoisePrediction, Prior


# begin
def flat_colour(rgb, width=0.3):
    """With the prompt N(colour, width^2), without one N(grey, 1), pixel by pixel."""
    schedule = NoiseSchedule.scaled_linear()
    means = {"cond": 2 * jnp.asarray(rgb) - 1, "uncond": jnp.zeros(3)}
    widths = {"cond": width, "uncond": 1.0}

    def noise(z_t, t, view, branches=("cond", "uncond")):
        alpha, sigma = schedule.alphas[t], schedule.sigmas[t]
        predicted = {
            name: sigma
            * (z_t - alpha * means[name])
            / (alpha**2 * widths[name] ** 2 + sigma**2)
            for name in branches
        }
        return NoisePrediction(**predicted)

    return Prior(schedule, noise, encode=lambda x: x, decode=lambda z: z)


# end
def main(steps: int = 200, rgb=(0.9, 0.5, 0.1)):
    prior = flat_colour(rgb)

    @jax.jit
    def step(pixels, key):
        how = {"prior": prior, "estimator": "mode_seeking_sds"}
        found = sdsjax.distill(lambda p, camera: p, pixels, None, key, **how)
        return pixels - 0.05 * found.grads

    pixels = jnp.full((8, 8, 3), 0.5)
    for i in range(steps):
        pixels = step(pixels, jax.random.key(i))
    return pixels


if __name__ == "__main__":
    print(main().mean((0, 1)))
