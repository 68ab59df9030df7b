"""`enable_x64(True)`, a context in which JAX computes in float64: jax.experimental's in
the oldest version, jax's own later. Not a test."""

import jax

enable_x64 = getattr(jax, "enable_x64", None)
if enable_x64 is None:
    from jax.experimental import enable_x64

__all__ = ["enable_x64"]
