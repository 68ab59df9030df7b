# type: ignore (what Warp compiles is not typed as Python is)
"""The two kernels of `warp_composite`, in the language of NVIDIA Warp.

Formulas are composite.py's; T is `left` here, L `running`, F `sums`. A block draws one
tile, a thread one pixel of it. Vectors have fixed lengths there, so kernels are made
for a number of features. What the threads of a block do together (sums over the tile)
they must all come to: in the gradient a pixel that is full goes on with weight 0 until
all of its tile are.
"""

# Warp reads a kernel's annotations as objects: no `from __future__ import annotations`.
from typing import Any, NamedTuple

import warp as wp

from sdsjax.render.splatting.composite import GEOMETRY, MIN_TRANSMITTANCE
from sdsjax.render.splatting.project import MIN_ALPHA

geometry = wp.constant(GEOMETRY)  # of a row; its features follow
faintest = wp.constant(MIN_ALPHA)  # alpha that is drawn
full = wp.constant(MIN_TRANSMITTANCE)  # where a pixel stops
vote = wp.constant(16)  # splats between two questions whether a whole tile is full


class Kernels(NamedTuple):
    """A slab's forward and backward kernel, for one number of features."""

    forward: Any
    backward: Any


@wp.func
def offset(pixel: int, size: int):
    """A pixel's centre (x, y) from its tile's, px."""
    half = 0.5 * wp.float32(size) - 0.5
    return wp.vec2(wp.float32(pixel % size) - half, wp.float32(pixel // size) - half)


@wp.func
def unclamped(a: float, b: float, c: float, log_opacity: float, dx: float, dy: float):
    """Opacity times the Gaussian, before any clamp."""
    return wp.exp(log_opacity - 0.5 * a * dx * dx - 0.5 * c * dy * dy - b * dx * dy)


@wp.func
def geometric(g: float, a: float, b: float, c: float, dx: float, dy: float):
    """The slopes of (x, y, A, B, C, log_opacity), g being the last."""
    v_x, v_y = g * (a * dx + b * dy), g * (c * dy + b * dx)
    return wp.spatial_vector(
        v_x, v_y, -0.5 * g * dx * dx, -g * dx * dy, -0.5 * g * dy * dy, g
    )


def make_kernels(features: int) -> Kernels:
    """Makes the kernels for rows of `features` features (composite's C - 1)."""
    row_type = wp.types.vector(length=GEOMETRY + features, dtype=wp.float32)
    sums_type = wp.types.vector(length=features + 1, dtype=wp.float32)
    types = features, row_type, sums_type
    return Kernels(_make_forward(*types), _make_backward(*types))


def _make_forward(features: int, row_type, sums_type):
    @wp.kernel(enable_backward=False, module="unique")
    def forward(
        table: wp.array[row_type],
        ids: wp.array[wp.int32],
        start: wp.array2d[wp.int32],
        centre: wp.array[wp.vec2],
        transmittance: wp.array2d[wp.float32],
        total: wp.array3d[wp.float32],
        n: wp.int32,
        capacity: wp.int32,
        size: wp.int32,
        max_alpha: wp.float32,
        transmittance_out: wp.array2d[wp.float32],
        total_out: wp.array3d[wp.float32],
    ):
        block, pixel = wp.tid()
        view, tile = block // centre.shape[0], block % centre.shape[0]
        at = offset(pixel, size) + centre[tile]
        left = wp.float32(transmittance[block, pixel])
        sums = sums_type()
        for c in range(features + 1):
            sums[c] = total[block, c, pixel]
        for slot in range(start[view, tile], start[view, tile + 1]):
            row = table[view * n + ids[view * capacity + slot]]
            raw = unclamped(
                row[2], row[3], row[4], row[5], at[0] - row[0], at[1] - row[1]
            )
            if raw >= faintest:
                alpha = wp.min(raw, max_alpha)
                weight = alpha * left
                left = left - weight
                if left <= full:
                    break
                for c in range(features):
                    sums[c] += weight * row[geometry + c]
                sums[features] += weight
        transmittance_out[block, pixel] = left
        for c in range(features + 1):
            total_out[block, c, pixel] = sums[c]

    return forward


def _make_backward(features: int, row_type, sums_type):
    @wp.kernel(enable_backward=False, module="unique")
    def backward(
        table: wp.array[row_type],
        ids: wp.array[wp.int32],
        start: wp.array2d[wp.int32],
        centre: wp.array[wp.vec2],
        transmittance: wp.array2d[wp.float32],
        running_sum: wp.array2d[wp.float32],
        cotangent: wp.array3d[wp.float32],
        total_sum: wp.array2d[wp.float32],
        n: wp.int32,
        capacity: wp.int32,
        size: wp.int32,
        max_alpha: wp.float32,
        v_rows: wp.array[row_type],
        transmittance_out: wp.array2d[wp.float32],
        running_out: wp.array2d[wp.float32],
    ):
        block, pixel = wp.tid()
        view, tile = block // centre.shape[0], block % centre.shape[0]
        at = offset(pixel, size) + centre[tile]
        left = wp.float32(transmittance[block, pixel])
        running = wp.float32(running_sum[block, pixel])
        v = sums_type()
        for c in range(features + 1):
            v[c] = cotangent[block, c, pixel]
        for slot in range(start[view, tile], start[view, tile + 1]):
            if slot % vote == 0:
                # read by every thread alike, so that a block stops as one
                going = wp.tile_sum(wp.tile(wp.where(left > full, 1, 0)))
                if going[0] == 0:
                    break
            row = table[view * n + ids[view * capacity + slot]]
            dx, dy = at[0] - row[0], at[1] - row[1]
            raw = unclamped(row[2], row[3], row[4], row[5], dx, dy)
            v_row = row_type()
            if raw >= faintest:
                alpha = wp.min(raw, max_alpha)
                weight = alpha * left
                if left - weight > full:
                    share = wp.float32(v[features])
                    for c in range(features):
                        share += v[c] * row[geometry + c]
                        v_row[geometry + c] = weight * v[c]
                    running += weight * share
                    if raw < max_alpha:
                        beyond = total_sum[block, pixel] - running
                        g = alpha * (left * share - beyond / (1.0 - alpha))
                        slope = geometric(g, row[2], row[3], row[4], dx, dy)
                        for i in range(geometry):
                            v_row[i] = slope[i]
                left = left - weight
            summed = wp.tile_sum(wp.tile(v_row, preserve_type=True))
            wp.tile_store(v_rows, summed, offset=view * capacity + slot)
        transmittance_out[block, pixel] = left
        running_out[block, pixel] = running

    return backward
