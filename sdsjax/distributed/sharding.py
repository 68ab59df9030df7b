"""One asset on several devices: a mesh with the axes "data" and "model".

Samples (views, and the noise drawn for them) are spread over "data", the parameters of
a large prior over "model" (distributed/parameters); every state is on each device. The
step is written for one device; only `map_views` mentions the mesh, and the result
equals one device's to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    SingleDeviceSharding,
)

from sdsjax.distributed.hosts import count as processes
from sdsjax.distributed.hosts import spread
from sdsjax.distributed.parameters import is_split

AXES = ("data", "model")


class MeshError(ValueError):
    """The devices cannot be laid out as asked; the message is one line."""


def _mesh(data: int, model: int, devices: Sequence) -> Mesh | None:
    # None for one device: programs stay what they are without a mesh
    if data * model == 1:
        return None
    return jax.make_mesh(
        (data, model),
        AXES,
        axis_types=(AxisType.Auto,) * 2,
        devices=devices[: data * model],
    )


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if number % n == 0)


def data_mesh(batch_size: int, devices=None) -> Mesh | None:
    """Makes a mesh over the most devices that divide the batch, all of them "data".

    None where that is one.
    """
    devices = list(jax.devices() if devices is None else devices)
    return _mesh(_largest_divisor(batch_size, len(devices)), 1, devices)


def make_meshes(
    samples: Sequence[int], *, data: int = -1, model: int = 1, devices=None
) -> tuple[Mesh | None, ...]:
    """Makes the mesh of each phase of a run, given how many samples its step has.

    data, model: sizes of the two axes; data = -1 takes what the batch divides over of
    the rest. With model = 1 and data = -1 phases differ; otherwise they share one mesh,
    so that parameters stay where the loader put them. Raises MeshError for sizes that
    do not divide the devices or a batch.
    """
    if devices is None and processes() > 1:
        return (_mesh_of_processes(math.gcd(*samples), data, model),) * len(samples)
    devices = list(jax.devices() if devices is None else devices)
    count, common = len(devices), math.gcd(*samples)
    if model > 1 and count % model:
        raise MeshError(
            f"mesh.model = {model} does not divide the {count} device(s) here: choose "
            f"{_choices(count)}"
        )
    if data == -1 and model == 1:
        return tuple(data_mesh(n, devices) for n in samples)
    if data == -1:
        data = _largest_divisor(common, count // model)
    elif data < 1 or count % (data * model):
        raise MeshError(
            f"mesh.data x mesh.model = {data} x {model} does not divide the {count} "
            f"device(s) here: choose mesh.data = {_choices(count // model)} or -1"
        )
    for n in samples:
        if n % data:
            raise MeshError(
                f"mesh.data = {data} does not divide the {n} sample(s) of a step "
                f"(views, or groups of them): choose {_choices(common)}, -1, or "
                "another batch_size"
            )
    return (_mesh(data, model, devices),) * len(samples)


def _mesh_of_processes(common: int, data: int, model: int) -> Mesh:
    # As many devices of each process, rows of "model" within one: what process 0 draws
    # and exports it computes alone.
    hosts, own = processes(), jax.local_device_count()
    if own % model:
        raise MeshError(
            f"mesh.model = {model} does not divide the {own} device(s) of a process: "
            f"choose {_choices(own)}; a prior is split within one"
        )
    fitting = [
        n for n in range(hosts, hosts * own // model + 1, hosts) if common % n == 0
    ]
    if not fitting:
        raise MeshError(
            f"the {common} sample(s) that all phases can share do not divide over "
            f"{hosts} processes: choose another batch_size (and those of the camera's "
            f"phases), multiples of {hosts}, or fewer processes"
        )
    if data != -1 and data not in fitting:
        raise MeshError(
            f"mesh.data = {data} does not fit {common} sample(s) of a step and "
            f"{hosts} processes of {own} device(s): choose "
            f"{', '.join(map(str, fitting))} or -1"
        )
    rows = (fitting[-1] if data == -1 else data) // hosts
    devices = [
        [d for d in jax.devices() if d.process_index == host][: rows * model]
        for host in range(hosts)
    ]
    shape = (rows * hosts, model)
    return Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 2)


def axis_size(mesh: Mesh | None, name: str) -> int:
    """Returns the size of a mesh's axis, 1 where there is no mesh."""
    return 1 if mesh is None else mesh.shape[name]


def _choices(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def map_views(function: Callable, mesh: Mesh | None, at_once: int = 0) -> Callable:
    """Maps function(shared, one of each) over the leading axis of `each`.

    On a mesh every device maps its own views, so that a renderer bins and sorts those
    alone; the transpose sums the gradient of `shared` over devices. Traced arrays must
    come in through `shared`, not by closure. at_once: of a device's own, so many side
    by side and the rest in turn (`in_turns`); 0: all.
    """
    mapped = jax.vmap(function, in_axes=(None, 0))
    if at_once:
        mapped = in_turns(function, at_once)
    if mesh is None:
        return mapped
    # "model" stays XLA's: it gathers and sums as the pieces of the parameters ask
    manual = {"axis_names": {"data"}} if axis_size(mesh, "model") > 1 else {}
    # Unchecked: a renderer's custom VJP knows nothing of axes.
    return jax.shard_map(
        mapped,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec("data"),
        check_vma=False,
        **manual,
    )


def in_turns(function: Callable, at_once: int) -> Callable:
    """Maps function(shared, one of each), `at_once` side by side, the rest in turn.

    A turn's intermediate values are computed again when it is transposed: memory is
    that of one turn, for one more forward pass. Results are those of `vmap` to
    rounding: sums over views are taken in another order.
    """

    def mapped(shared, each):
        if jax.tree.leaves(each)[0].shape[0] <= at_once:
            return jax.vmap(function, in_axes=(None, 0))(shared, each)
        one = jax.checkpoint(function)
        return jax.lax.map(
            lambda one_each: one(shared, one_each), each, batch_size=at_once
        )

    return mapped


def replicated(mesh: Mesh | None) -> NamedSharding | SingleDeviceSharding:
    """Returns the sharding of arrays that are whole on each device in use."""
    if mesh is None:
        return SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree, mesh: Mesh | None):
    """Place every leaf of a pytree whole on each device in use."""
    where = replicated(mesh)
    if isinstance(where, NamedSharding) and processes() > 1:
        return jax.tree.map(lambda leaf: spread(leaf, where), tree)
    return jax.device_put(tree, where)


def whole_results(mesh: Mesh | None) -> dict:
    """Returns what `jax.jit` is told of results that stay whole on every device.

    Nothing where only views are spread in one process: they are by themselves.
    """
    if mesh is None or (axis_size(mesh, "model") == 1 and processes() == 1):
        return {}
    return {"out_shardings": NamedSharding(mesh, PartitionSpec())}


def place_prior(tree, mesh: Mesh | None):
    """Places a prior's arrays: those that the loader split stay, the rest is whole."""
    return jax.tree.map(
        lambda leaf: leaf if is_split(leaf) else replicate(leaf, mesh), tree
    )


def describe(mesh: Mesh | None, devices=None) -> str:
    """Says for the log what is used, and what stays idle.

    A device is idle where the batch does not divide over it, or mesh.data is smaller.
    """
    devices = list(jax.devices() if devices is None else devices)
    used = 1 if mesh is None else mesh.devices.size
    taken = devices[:1] if mesh is None else list(mesh.devices.flat)
    kind = devices[0].device_kind
    line = f"{used} of {len(devices)} device(s) ({kind})"
    if axis_size(mesh, "model") > 1:
        line += f", data {axis_size(mesh, 'data')} x model {axis_size(mesh, 'model')}"
    if processes() > 1:
        line += f" of {processes()} processes"
    if used < len(devices):
        idle = ", ".join(str(device) for device in devices if device not in taken)
        line += f"; idle, as mesh.data or the batch leaves them out: {idle}"
    return line
