"""Functions of cameras that many tests call, each compiled whole: called as they are,
they compile two dozen operations for every count of views. Not a test."""

import jax

from sdsjax import cameras

random_orbits = jax.jit(
    cameras.random_orbits,
    static_argnames=("count", "orbit", "width", "height", "group"),
)
orbit_camera = jax.jit(cameras.orbit_camera, static_argnames=("width", "height"))
pixel_rays = jax.jit(cameras.pixel_rays)
