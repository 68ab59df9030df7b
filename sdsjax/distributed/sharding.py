"""Views spread over devices: one axis, named "data".

Views (and the noise drawn for them) are sharded over the largest number of devices
that divides the batch; parameters, the prior and every state are replicated. The step
is written for one device; only `map_views` mentions the mesh, and the result equals
one device's to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
)


def data_mesh(batch_size: int, devices=None) -> Mesh | None:
    """Makes a mesh ("data",) over the most devices that divide the batch.

    None where that is one.
    """
    devices = list(jax.devices() if devices is None else devices)
    n = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if n == 1:
        return None
    return jax.make_mesh(
        (n,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:n]
    )


def map_views(function: Callable, mesh: Mesh | None) -> Callable:
    """Maps function(shared, one of each) over the leading axis of `each`.

    On a mesh every device maps its own views, so that a renderer bins and sorts those
    alone; the transpose sums the gradient of `shared` over devices. Traced arrays must
    come in through `shared`, not by closure.
    """
    mapped = jax.vmap(function, in_axes=(None, 0))
    if mesh is None:
        return mapped
    # Unchecked: a renderer's custom VJP knows nothing of axes.
    return jax.shard_map(
        mapped,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )


def replicate(tree, mesh: Mesh | None):
    """Place every leaf of a pytree whole on each device in use."""
    if mesh is None:
        return jax.device_put(tree, SingleDeviceSharding(jax.devices()[0]))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def describe(mesh: Mesh | None, devices=None) -> str:
    """Says for the log what is used, and what stays idle.

    A device is idle because the batch does not divide over it.
    """
    devices = list(jax.devices() if devices is None else devices)
    used = 1 if mesh is None else mesh.devices.size
    kind = devices[0].device_kind
    line = f"{used} of {len(devices)} device(s) ({kind})"
    if used < len(devices):
        idle = ", ".join(str(device) for device in devices[used:])
        line += f"; idle, as the batch does not divide over them: {idle}"
    return line
