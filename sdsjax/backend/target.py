"""The target is the kind of device that programs are compiled for, as plain facts.

`target()` is asked while a program is built and traced, never by the program itself.
Where an argument can carry the choice it does: `rasterize.default_plan(target=...)`,
`nerf(chunk=...)`. What no argument reaches, the attention inside a network, asks
`target()` while it is traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import jax


class Target(NamedTuple):
    """A target is a platform and, of a CUDA device, its compute capability.

    platform: "cpu", "cuda", "rocm" or "tpu", the names that `jax.export` takes;
    capability: (8, 0) is an A100, (9, 0) an H100; (0, 0) on other platforms.
    """

    platform: str
    capability: tuple[int, int] = (0, 0)


_said: ContextVar[Target | None] = ContextVar("sdsjax_target", default=None)


def target() -> Target:
    """Returns what is compiled for: what `compiling_for` says, else the device in use.

    That is JAX's default device, or the first one. Raises what JAX raises where the
    environment asks for a platform that is not there.
    """
    said = _said.get()
    return target_of(_device_in_use()) if said is None else said


@contextlib.contextmanager
def compiling_for(said: Target) -> Iterator[Target]:
    """Says inside a block what is compiled for, whatever devices this process has.

    For `jax.export` and for tests. JAX's caches of traced functions do not see it: what
    was traced outside for the same shapes is used again inside, and the other way
    around. So build and jit anew inside the block (a new function is a new entry), and
    run nothing there that is meant for the devices at hand.
    """
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


def target_of(device) -> Target:
    """Returns the target that a JAX device is."""
    if device.platform != "gpu":
        return Target(device.platform)
    if "cuda" not in device.client.platform_version:
        return Target("rocm")
    major, _, minor = str(device.compute_capability).partition(".")
    return Target("cuda", (int(major), int(minor or 0)))


def _device_in_use():
    # JAX_DEFAULT_DEVICE and jax.default_device take a device or a platform's name
    chosen = jax.config.jax_default_device
    if chosen is None:
        return jax.devices()[0]
    return jax.devices(chosen)[0] if isinstance(chosen, str) else chosen
