"""Composites tile lists by kernels of NVIDIA Warp: what composite.py does in XLA.

The same sums and the same gradient, through the same two functions. A block of threads
draws one tile, a thread one of its pixels, and each thread stops where its own pixel is
full. In the gradient a block adds its pixels up splat by splat, so that every pair of
splat and tile is written once, in an order that does not depend on how blocks run.

Warp (the extra `warp`) is one wheel that compiles its kernels when they are first used:
for an NVIDIA GPU without a CUDA toolkit, for a CPU without a compiler. On a CPU a block
is a thread's fibers, which is right but slow: there it is for tests.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import warp as wp

from sdsjax.render.splatting.binning import TileLists
from sdsjax.render.splatting.composite import GEOMETRY, RasterPlan, tile_centres
from sdsjax.render.splatting.warp_kernels import Kernels, make_kernels

Array = jax.Array

MAX_BLOCK = 1024  # threads

# Without it a block on a CPU is one thread, and a sum over a block is of one pixel.
wp.config.enable_cpu_blocks = True
wp.config.log_level = wp.LOG_WARNING  # it greets on stdout, where tables are printed


class Launch:
    """The sizes of one slab's launch.

    tiles: of all views, V T; pixels: of a tile, the threads of a block; n, capacity:
    splats and slots of the lists of a view; row: numbers in a row of the table, 6 + C.
    """

    def __init__(self, table: Array, lists: TileLists, plan: RasterPlan):
        views, self.n, self.row = table.shape
        self.capacity = lists.ids.shape[1]
        self.tiles, self.pixels = views * plan.grid.tiles, plan.grid.size**2
        if table.dtype != jnp.float32:
            raise ValueError(
                f"kernel='warp' draws float32, not {table.dtype}: choose kernel='xla'"
            )
        if self.pixels > MAX_BLOCK:
            raise ValueError(
                f"tile_size={plan.grid.size}: kernel='warp' has a thread a pixel, at "
                f"most {MAX_BLOCK} in a tile: choose 32 or less"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks and their threads."""
        return self.tiles, self.pixels


def forward_slab(table: Array, lists: TileLists, carry, plan: RasterPlan):
    """Composites one slab onto carry = (T [V tiles P], F [V tiles C P])."""
    launch = Launch(table, lists, plan)
    draw = kernels_of(launch.row - GEOMETRY, launch.pixels).forward
    transmittance, total = carry
    outputs = draw(
        *_inputs(table, lists, plan, launch),
        transmittance.reshape(launch.grid),
        total.reshape(launch.tiles, -1, launch.pixels),
        *_scalars(launch, plan),
        launch_dims=launch.grid,
        output_dims={
            "transmittance_out": launch.grid,
            "total_out": (launch.tiles, total.shape[2], launch.pixels),
        },
    )
    return tuple(new.reshape(old.shape) for new, old in zip(outputs, carry))


def backward_slab(
    table: Array, lists: TileLists, carry, cotangent, total_sum, plan: RasterPlan
):
    """Adds one slab's gradient to carry = (T, L [V tiles P], v_table [V n 6 + C]).

    cotangent [V tiles C P] of F; total_sum [V tiles P]: L_n.
    """
    launch = Launch(table, lists, plan)
    pull = kernels_of(launch.row - GEOMETRY, launch.pixels).backward
    transmittance, running_sum, v_table = carry
    # zeros, for a block that stops writes nothing of what it leaves out
    slots = jnp.zeros((lists.ids.size, launch.row), table.dtype)
    v_rows, after, running = pull(
        *_inputs(table, lists, plan, launch),
        transmittance.reshape(launch.grid),
        running_sum.reshape(launch.grid),
        cotangent.reshape(launch.tiles, -1, launch.pixels),
        total_sum.reshape(launch.grid),
        *_scalars(launch, plan),
        slots,
        launch_dims=launch.grid,
        output_dims={"transmittance_out": launch.grid, "running_out": launch.grid},
    )
    shift = launch.n * jnp.arange(len(table), dtype=jnp.int32)[:, None]
    v_flat = v_table.reshape(-1, launch.row)
    v_flat = v_flat.at[(lists.ids + shift).reshape(-1)].add(v_rows, mode="drop")
    return (
        after.reshape(transmittance.shape),
        running.reshape(running_sum.shape),
        v_flat.reshape(v_table.shape),
    )


def _inputs(table: Array, lists: TileLists, plan: RasterPlan, launch: Launch):
    centre = jnp.asarray(tile_centres(plan.grid), table.dtype)
    return table.reshape(-1, launch.row), lists.ids.reshape(-1), lists.start, centre


def _scalars(launch: Launch, plan: RasterPlan):
    return launch.n, launch.capacity, plan.grid.size, plan.max_alpha


@cache
def kernels_of(features: int, pixels: int) -> Kernels:
    """Returns the two kernels as functions of arrays, one thread a pixel of a tile."""
    forward, backward = make_kernels(features)
    options: dict[str, Any] = {"block_dim": pixels}
    return Kernels(
        wp.jax_kernel(forward, num_outputs=2, **options),
        wp.jax_kernel(backward, num_outputs=3, in_out_argnames=["v_rows"], **options),
    )
