"""Flax's modules with a cheaper check of parameters, and shapes without numbers.

Whenever a network is traced, `flax.linen` traces the initialiser of each parameter too,
only to compare its shape with that of the array at hand: half of what tracing a small
convolution cost. A layer says the shape when it asks, so the modules here compare that.
Modules, matrices and convolutions of this package are these.
"""

from collections.abc import Callable
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors

_SHAPES_ALONE = ContextVar("shapes_alone", default=False)


class _ByShape:
    """Looks a parameter up, checked by the shape that its layer asks for."""

    def param(self, name: str, init_fn: Callable, *init_args, **options):
        """Returns the parameter of a name, made by `init_fn(key, *init_args)` at first.

        The first of `init_args` is its shape; without one Flax's own check is made.
        Raises flax.errors.ScopeParamShapeError where the array has another.
        """
        if not init_args:
            return super().param(name, init_fn, **options)
        shape = tuple(init_args[0])
        if self.has_variable("params", name):
            value = self.get_variable("params", name)
            if jnp.shape(value) != shape:
                path = "/" + "/".join(self.path)
                raise errors.ScopeParamShapeError(name, path, jnp.shape(value), shape)
            return value
        if _SHAPES_ALONE.get():
            value = jnp.zeros(shape, *init_args[1:])
            self.put_variable("params", name, value)
            return value
        return super().param(name, init_fn, *init_args, **options)


class Module(_ByShape, nn.Module):
    """Is the base of every network, `flax.linen.Module` with the cheaper check."""


class Dense(_ByShape, nn.Dense):
    """Applies a matrix and a bias, `flax.linen.Dense` with the cheaper check."""


class Conv(_ByShape, nn.Conv):
    """Convolves channels last, `flax.linen.Conv` with the cheaper check."""


def parameter_shapes(module: nn.Module, *inputs):
    """Returns a network's parameters as shapes and dtypes, nothing allocated or drawn.

    inputs: arrays as the network takes them, or their shapes and dtypes. The tree is
    that of `module.init`.
    """
    token = _SHAPES_ALONE.set(True)
    try:
        key = jax.eval_shape(jax.random.key, 0)
        return jax.eval_shape(module.init, key, *inputs)["params"]
    finally:
        _SHAPES_ALONE.reset(token)
