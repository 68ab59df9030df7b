"""Gaussians to pictures: the tiled rasteriser and the dense reference it must equal.

Notation: n Gaussians (project.Gaussians), one camera, image h x w. rgb = sum w_k c_k +
(1 - opacity) background; depth and normal are averages over what the ray meets,
sum w_k z_k / sum w_k, 0 where nothing is met (normals of length <= 1, world frame);
opacity = sum w_k. Weights w_k as in composite.py: pixel centres at +0.5, alpha < 1/255
skipped, alpha clamped at max_alpha (no gradient there), stop before T <= 1e-4.

`rasterize` is tiled, drops nothing under static shapes, and has a custom reverse-mode
gradient; under `vmap` over cameras all views share one pass. `rasterize_reference`
composites every Gaussian into every pixel by plain autodiff: the oracle of the tests.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from sdsjax import backend
from sdsjax.cameras import Camera
from sdsjax.render import spherical_harmonics as sh
from sdsjax.render.splatting import binning, composite
from sdsjax.render.splatting.binning import TileGrid
from sdsjax.render.splatting.composite import MIN_TRANSMITTANCE, RasterPlan
from sdsjax.render.splatting.project import (
    MIN_ALPHA,
    Gaussians,
    Splats,
    normals,
    project,
    view_directions,
)
from sdsjax.types import Rendering

Array = jax.Array

KERNELS = ("xla", "warp")


def rasterize(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: Array,
    max_alpha: float = 0.99,
    antialias: bool = False,
    screen_offset: Array | None = None,
    capacity: int | None = None,
    tile_size: int | None = None,
    differentiation: str = "reverse",
    kernel: str = "xla",
) -> Rendering:
    """Renders the Gaussians as the camera sees them, tile by tile.

    background: rgb [3] or [h w 3]. screen_offset: [n 2] px, added to the projected
    means (differentiate at zero for density control). capacity: intersections that the
    buffer holds; too small costs passes, never a splat. differentiation: "reverse"
    (fast gradient, no jvp) or "forward" (jvp only). kernel: what composites, "xla" or,
    on an NVIDIA GPU, "warp" (reverse alone). aux: n_isects (splat-tile pairs), n_slabs
    (passes), radii [n 2] (half box, px; -1 for a splat that is hidden or outside the
    picture). Raises ValueError on an unknown differentiation or SH count, and on a
    kernel that is not there.
    """
    if differentiation not in ("reverse", "forward"):
        raise ValueError(
            f"differentiation={differentiation!r}: allowed are 'reverse' (vjp) and "
            "'forward' (jvp)"
        )
    if kernel == "warp" and differentiation == "forward":
        raise ValueError(
            "kernel='warp' has no forward differentiation (jvp): choose kernel='xla'"
        )
    compositor(kernel)
    splats, features = _splats_and_features(gaussians, camera, antialias, screen_offset)
    plan = default_plan(
        len(splats.mean),
        camera.width,
        camera.height,
        max_alpha=max_alpha,
        capacity=capacity,
        tile_size=tile_size,
        kernel=kernel,
    )
    sums, counts = accumulate(plan, splats, features, differentiation)
    return _to_rendering(sums, background, splats, counts)


def compositor(kernel: str):
    """Returns the module that composites: forward_slab, backward_slab as composite's.

    Raises ValueError on a kernel that is unknown, not installed or not for the device
    that is compiled for.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: allowed are {', '.join(KERNELS)}")
    if kernel == "xla":
        return composite
    platform = backend.target().platform
    if platform not in ("cpu", "cuda"):
        raise ValueError(
            f"kernel='warp' is for NVIDIA GPUs (and for tests on a CPU), not for "
            f"{platform}: choose kernel='xla'"
        )
    try:
        from sdsjax.render.splatting import warp_composite
    except ImportError as error:
        raise ValueError(
            f"kernel='warp' needs NVIDIA Warp ({error}): pip install 'sdsjax[warp]', "
            "or choose kernel='xla'"
        ) from None
    return warp_composite


def rasterize_reference(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: Array,
    max_alpha: float = 0.99,
    antialias: bool = False,
    screen_offset: Array | None = None,
    capacity: int | None = None,
    tile_size: int | None = None,
    differentiation: str = "reverse",
    kernel: str = "xla",
) -> Rendering:
    """Renders what `rasterize` does, over all pairs of Gaussians and pixels [n h w].

    Takes the same arguments; those that only say how to compute (capacity, tile_size,
    differentiation, kernel) change nothing here: plain autodiff goes both ways.
    """
    del capacity, tile_size, differentiation, kernel
    splats, features = _splats_and_features(gaussians, camera, antialias, screen_offset)
    order = jnp.argsort(jnp.where(splats.extent[:, 0] < 0, jnp.inf, splats.depth))
    mean, conic, log_opacity, features = (
        a[order] for a in (splats.mean, splats.conic, splats.log_opacity, features)
    )
    dtype = mean.dtype
    dx = jnp.arange(camera.width, dtype=dtype) + 0.5 - mean[:, 0, None]
    dy = jnp.arange(camera.height, dtype=dtype) + 0.5 - mean[:, 1, None]
    dx, dy = dx[:, None, :], dy[:, :, None]
    a, b, c = (conic[:, i, None, None] for i in range(3))
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    raw = jnp.exp(log_opacity[:, None, None] - sigma)
    alpha = jnp.where(raw < max_alpha, raw, max_alpha)
    alpha = jnp.where(raw >= MIN_ALPHA, alpha, 0.0)
    after = jnp.cumprod(1 - alpha, axis=0)
    before = jnp.concatenate([jnp.ones_like(after[:1]), after[:-1]])
    weight = jnp.where(after > MIN_TRANSMITTANCE, alpha * before, 0.0)
    ones = jnp.ones((len(features), 1), dtype)
    features = jnp.concatenate([features, ones], axis=-1)
    sums = jnp.einsum("nhw,nc->hwc", weight, features, precision="highest")
    return _to_rendering(sums, background, splats, {})


def default_plan(
    n: int,
    width: int,
    height: int,
    *,
    max_alpha: float = 0.99,
    capacity: int | None = None,
    tile_size: int | None = None,
    kernel: str = "xla",
    target: backend.Target | None = None,
) -> RasterPlan:
    """Plans how n splats are drawn into width x height px by default.

    target: what is compiled for (default: what `sdsjax.backend.target` says).
    """
    size = tile_size or default_tile_size(width, height)
    grid = TileGrid(width, height, size)
    tiles_per_group, splats_per_step = default_lockstep(
        size, target or backend.target()
    )
    return RasterPlan(
        grid=grid,
        capacity=max(capacity or default_capacity(n, grid), grid.tiles),
        max_alpha=max_alpha,
        tiles_per_group=tiles_per_group,
        splats_per_step=splats_per_step,
        kernel=kernel,
    )


def default_tile_size(width: int, height: int) -> int:
    """Returns 8 px up to 128 x 128, 16 px above: more pairs, each at half the price.

    Forward and backward on 2 CPU cores, at 8 and at 16 px: 4 views of 2000 splats at
    64x64 31 and 39 ms, 5000 at 256x256 55 and 43, 20 000 there 105 and 109 (all before
    rows were laid out by tile).
    """
    return 8 if max(width, height) <= 128 else 16


def default_lockstep(size: int, target: backend.Target) -> tuple[int, int]:
    """Returns how many tiles of `size` px go in lockstep, and how many splats a step.

    On a CPU few, so that what they need stays in cache; elsewhere as many as there are
    (not measured yet).
    """
    if target.platform == "cpu":
        # longer steps pay where lists are long, which those of small tiles are not
        return max(1, 2048 // size**2), 16 if size <= 8 else 32
    return max(1, 2**20 // size**2), 32


def default_capacity(n: int, grid: TileGrid) -> int:
    """Returns 6 n intersections, rounded up to a multiple of 1024.

    At most what all splats could need. An object that fills the picture has 3.4 to 5.5
    n (2000 to 100 000 Gaussians at 64 to 512 px); room that is not used is sorted all
    the same.
    """
    return min(-(-6 * n // 1024) * 1024, n * grid.tiles)


def _splats_and_features(
    gaussians: Gaussians, camera: Camera, antialias: bool, screen_offset
):
    """Splats, and their features [n 7]: rgb, depth, normal."""
    splats = project(gaussians, camera, antialias=antialias)
    if screen_offset is not None:
        splats = splats._replace(mean=splats.mean + screen_offset)
    rgb = sh.colour(gaussians.sh, view_directions(gaussians.means, camera))
    facing = normals(gaussians, camera)
    return splats, jnp.concatenate([rgb, splats.depth[:, None], facing], axis=-1)


def _to_rendering(
    sums: Array, background: Array, splats: Splats, aux: dict
) -> Rendering:
    """Divides depth and normal by the opacity and lays rgb over the background."""
    opacity = sums[..., 7]
    met = opacity > 0
    share = jnp.where(met, 1 / jnp.where(met, opacity, 1.0), 0.0)
    transmittance = (1 - opacity)[..., None]
    return Rendering(
        rgb=sums[..., :3] + transmittance * jnp.asarray(background, sums.dtype),
        opacity=opacity,
        depth=sums[..., 3] * share,
        normal=sums[..., 4:7] * share[..., None],
        aux={**aux, "radii": _radii(splats, opacity.shape)},
    )


def _radii(splats: Splats, shape: tuple[int, ...]) -> Array:
    """The boxes' half sizes [n 2] px, -1 where a box misses the picture (h, w)."""
    size = jnp.array([shape[1], shape[0]], splats.mean.dtype)
    mean = lax.stop_gradient(splats.mean)
    meets = (mean + splats.extent > 0) & (mean - splats.extent < size)
    return jnp.where(jnp.all(meets, axis=-1, keepdims=True), splats.extent, -1.0)


def accumulate(plan: RasterPlan, splats: Splats, features: Array, differentiation: str):
    """Returns the sums [h w C + 1] of features [n C] and 1, and the counts of pairs.

    The sums are weighted by what each splat covers of a pixel.
    """
    table = jnp.concatenate(
        [splats.mean, splats.conic, splats.log_opacity[:, None], features], axis=-1
    )
    hidden = lax.stop_gradient(splats)
    if differentiation == "forward":
        table, hidden = _add_view_axis((table, hidden))
        tiles, counts, _ = _forward_views(plan, table, hidden)
        tiles, counts = tiles[0], jax.tree.map(lambda a: a[0], counts)
    else:
        sums: Any = _composited_sums(plan, table, hidden)
        tiles, counts = sums
    return _untile(tiles, plan.grid), counts


def _add_view_axis(tree):
    return jax.tree.map(lambda a: a[None], tree)


def _untile(tiles: Array, grid: TileGrid) -> Array:
    """[T C P] -> [h w C]."""
    channels = tiles.shape[1]
    image = tiles.reshape(grid.rows, grid.columns, channels, grid.size, grid.size)
    image = image.transpose(0, 3, 1, 4, 2)
    image = image.reshape(grid.rows * grid.size, grid.columns * grid.size, channels)
    return image[: grid.height, : grid.width]


def _merging_views(function):
    """`vmap` of a function of [V ...] arrays becomes one call with more views."""

    @custom_vmap
    def merged(*args):
        return function(*args)

    @merged.def_vmap
    def rule(size, batched, *args):
        spread = lambda b, a: a if b else jnp.broadcast_to(a, (size, *a.shape))  # noqa: E731
        args = jax.tree.map(spread, batched, list(args))
        inner = jax.tree.leaves(args)[0].shape[1]
        flat = jax.tree.map(lambda a: a.reshape(size * inner, *a.shape[2:]), args)
        out = jax.tree.map(
            lambda a: a.reshape(size, inner, *a.shape[1:]), merged(*flat)
        )
        return out, jax.tree.map(lambda _: True, out)

    return merged


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _composited_sums(plan: RasterPlan, table: Array, splats: Splats):
    return _sums_forward(plan, table, splats)[0]


def _sums_forward(plan, table, splats):
    run = _merging_views(partial(_forward_views, plan))
    sums, counts, saved = run(*_add_view_axis((table, splats)))
    drop = partial(jax.tree.map, lambda a: a[0])
    return (sums[0], drop(counts)), (table, splats, sums[0], drop(saved))


def _sums_backward(plan, residuals, cotangents):
    table, splats, sums, saved = residuals
    run = _merging_views(partial(_backward_views, plan))
    v_table = run(*_add_view_axis((table, sums, saved, cotangents[0])))[0]
    return v_table, jax.tree.map(jnp.zeros_like, splats)


_composited_sums.defvjp(_sums_forward, _sums_backward)


def _composite_slabs(footprints, lists, stop, plan: RasterPlan, composite_slab, carry):
    """Composites slab after slab; returns the carry and the counts of each view."""
    visible = jnp.sum(footprints.count > 0, axis=-1, dtype=jnp.int32)

    def body(loop):
        lists, stop, carry, isects, slabs, _ = loop
        carry = composite_slab(lists, carry)
        isects = isects + lists.total
        slabs = slabs + (lists.total > 0).astype(slabs.dtype)
        more = jnp.any(stop < visible)
        lists, stop = lax.cond(
            more,
            lambda: binning.tile_lists(footprints, stop, plan.grid, plan.capacity),
            lambda: (lists, stop),
        )
        return lists, stop, carry, isects, slabs, more

    zero = jnp.zeros_like(visible)
    loop = (lists, stop, carry, zero, zero, jnp.bool_(True))
    loop = lax.while_loop(lambda loop: loop[-1], body, loop)
    return loop[2], {"n_isects": loop[3], "n_slabs": loop[4]}


def _forward_views(plan: RasterPlan, table: Array, splats: Splats):
    """Sums [V T C P], counts [V] and what the backward pass needs, of V views."""
    footprints = binning.footprints(splats, plan.grid)
    begin = jnp.zeros(table.shape[0], jnp.int32)
    lists, stop = binning.tile_lists(footprints, begin, plan.grid, plan.capacity)
    shape = (table.shape[0], plan.grid.tiles)
    pixels, channels = plan.grid.size**2, table.shape[-1] - composite.GEOMETRY + 1
    carry = (
        jnp.ones((*shape, pixels), table.dtype),
        jnp.zeros((*shape, channels, pixels), table.dtype),
    )
    forward_slab = compositor(plan.kernel).forward_slab
    step = lambda lists, carry: forward_slab(table, lists, carry, plan)  # noqa: E731
    (_, sums), counts = _composite_slabs(footprints, lists, stop, plan, step, carry)
    return sums, counts, (footprints, lists, stop)


def _backward_views(
    plan: RasterPlan, table: Array, sums: Array, saved, cotangent: Array
):
    footprints, lists, stop = saved
    # channel by channel: XLA on a CPU took 9 ms to reduce this axis at 256x256
    channels = range(sums.shape[-2])
    total_sum = sum(sums[..., c, :] * cotangent[..., c, :] for c in channels)
    carry = (jnp.ones_like(total_sum), jnp.zeros_like(total_sum), jnp.zeros_like(table))

    def step(lists, carry):
        backward_slab = compositor(plan.kernel).backward_slab
        return backward_slab(table, lists, carry, cotangent, total_sum, plan)

    return _composite_slabs(footprints, lists, stop, plan, step, carry)[0][2]
