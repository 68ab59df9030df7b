"""A prior's parameters split over the mesh axis "model".

Each kernel is cut along its largest axis that the devices of "model" divide; leaves of
one axis (biases, norms) and small ones are whole on every device. The loader asks
`parameter_sharding` where each tensor goes and reads only the pieces of this process's
devices; XLA adds the communication where a network uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# entries: below, a copy on every device costs less than the message that a cut needs
SMALL = 2048


def parameter_spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Returns how a parameter of some shape is cut into `parts`, or PartitionSpec().

    Of equal axes the last is taken: a kernel's outputs, so that sums stay whole.
    """
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or len(shape) < 2 or math.prod(shape) < SMALL or not fitting:
        return PartitionSpec()
    axis = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("model" if i == axis else None for i in range(len(shape))))


def parameter_sharding(mesh: Mesh | None) -> Callable | None:
    """Returns shape -> NamedSharding of a parameter; None where none is split."""
    if mesh is None or mesh.shape["model"] == 1:
        return None
    return lambda shape: NamedSharding(mesh, parameter_spec(shape, mesh.shape["model"]))


def is_split(leaf) -> bool:
    """Tells whether a leaf's pieces lie on several devices."""
    if not isinstance(leaf, jax.Array):
        return False
    return isinstance(leaf.sharding, NamedSharding) and not leaf.is_fully_replicated


def bytes_a_device(tree) -> int:
    """Counts the bytes that a pytree of arrays takes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        if is_split(leaf)
        else leaf.nbytes
        for leaf in jax.tree.leaves(tree)
    )
