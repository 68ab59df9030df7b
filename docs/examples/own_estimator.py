"""An estimator of one's own: e_y less a share of the noise that was added."""

import jax
import jax.numpy as jnp
from own_prior import flat_colour

import sdsjax
from sdsjax.diffusion import weight_function
from sdsjax.estimators.common import draw_noise, no_state
from sdsjax.math import norm
from sdsjax.types import Estimate, Estimator


# begin
def damped(schedule, *, share=0.5, weighting="sigma2"):
    """e_y - share eps: SDS's terms at 1, plain mode-seeking at 0."""
    if not 0 <= share <= 1:
        raise ValueError(f"damped: share = {share} must be in 0..1")
    weight = weight_function(schedule, weighting)

    def estimate(prior, key, state, z, t, view):
        eps, z_t = draw_noise(schedule, key, z, t)
        cond = prior.noise(z_t, t, view, branches=("cond",)).cond
        direction = cond - share * eps
        return Estimate(weight(t) * direction, {"direction_norm": norm(direction)})

    return Estimator(no_state, estimate)


# end
def main(steps: int = 200, rgb=(0.9, 0.5, 0.1)):
    prior = flat_colour(rgb)

    @jax.jit
    def step(pixels, key):
        how = {"prior": prior, "estimator": damped, "share": 1.0}
        found = sdsjax.distill(lambda p, camera: p, pixels, None, key, **how)
        return pixels - 0.05 * found.grads

    pixels = jnp.full((8, 8, 3), 0.5)
    for i in range(steps):
        pixels = step(pixels, jax.random.key(i))
    return pixels


if __name__ == "__main__":
    print(main().mean((0, 1)))
