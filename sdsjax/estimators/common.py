"""What every estimator begins with: the noise, drawn the same way from equal keys, so
that estimators can be compared sample by sample."""

from __future__ import annotations

import jax

from sdsjax.diffusion import NoiseSchedule, add_noise


def no_state(prior, key, z_spec) -> tuple:
    """The `init` of an estimator that learns nothing."""
    del prior, key, z_spec
    return ()


def draw_noise(schedule: NoiseSchedule, key: jax.Array, z: jax.Array, t: jax.Array):
    """(eps, z_t), both of z's shape and dtype; eps from the first half of `key`."""
    key_noise, _ = jax.random.split(key)
    eps = jax.random.normal(key_noise, z.shape, z.dtype)
    return eps, add_noise(schedule, z, eps, t)
