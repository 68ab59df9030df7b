"""Assets side by side: a leading axis, mapped on a device and spread over devices.

Every device maps its own assets, so that nothing of one asset crosses to another; the
result of each equals what it is alone, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding


def _is_none(leaf) -> bool:
    return leaf is None


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec("data")


def map_assets(function: Callable, mesh: Mesh | None, in_axes, out_axes) -> Callable:
    """Maps a function over assets, those of each device on that device.

    in_axes, out_axes: as of `jax.vmap`, 0 or None; the number of assets must divide
    over the mesh axis "data".
    """
    mapped = jax.vmap(function, in_axes=in_axes, out_axes=out_axes)
    if mesh is None:
        return mapped
    specs = [
        jax.tree.map(_spec, axes, is_leaf=_is_none) for axes in (in_axes, out_axes)
    ]
    # Unchecked: a renderer's custom VJP knows nothing of axes.
    return jax.shard_map(
        mapped, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False
    )


def place_assets(tree, mesh: Mesh | None, axes):
    """Places arrays where `map_assets` reads them: [n ...] spread, the rest whole.

    axes: 0 or None, for the whole tree or for each of its first branches.
    """

    def place(axis, branch):
        if mesh is None:
            where = SingleDeviceSharding(jax.devices()[0])
        else:
            where = NamedSharding(mesh, _spec(axis))
        return jax.device_put(branch, where)

    return jax.tree.map(place, axes, tree, is_leaf=_is_none)
