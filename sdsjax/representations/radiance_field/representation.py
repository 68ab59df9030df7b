"""A radiance field as a `Representation`: hash grid, two networks, rays.

Params, state and field: field.py; what a ray sees: ray_sampling.py; what is known to be
empty: occupancy_grid.py. With a key every ray draws one offset for its coarse points
and one for its fine ones, and the background is drawn too; without a key both are the
centres of their strata, and the background is white. Rays go in chunks, and the
backward pass computes what a chunk sees anew (jax.checkpoint). Normals of single points
are computed where a loss or the shading asks for them. A Rendering's aux has the terms
of single rays [h w], and with an occupancy grid "samples", a ray's points in occupied
cells, and "dropped", those for which there was no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.cameras import Camera, camera_position
from sdsjax.render.raymarching import volume_rendering as volume
from sdsjax.representations.common import draw_background
from sdsjax.representations.radiance_field import hash_grid, shading
from sdsjax.representations.radiance_field import occupancy_grid as occupied
from sdsjax.representations.radiance_field.field import (
    Field,
    NerfParams,
    NerfState,
    background_of,
    init_field,
    init_guide,
)
from sdsjax.representations.radiance_field.field import look as look_at
from sdsjax.representations.radiance_field.ray_sampling import (
    Known,
    Sampling,
    draw_points,
    in_chunks,
    ray_points,
)
from sdsjax.representations.radiance_field.settings import check
from sdsjax.types import Rendering, Representation, RowEdit

Array = jax.Array

__all__ = ["REGULARIZERS", "NerfParams", "NerfState", "nerf"]

# Each takes (renderings, z_reduction); renderings may carry a leading axis of views.
REGULARIZERS = {
    "opacity": lambda r, _: jnp.mean(r.opacity),
    "sparsity": lambda r, _: loss.sparsity(r.opacity),
    "entropy": lambda r, _: loss.binary_entropy(r.opacity),
    "total_variation": lambda r, _: loss.total_variation(r.rgb),
    "z_variance": lambda r, how: loss.reduce_rays(
        r.aux["z_variance"], r.opacity > loss.OPAQUE, how
    ),
    "distortion": lambda r, _: jnp.mean(r.aux["distortion"]),
    "orientation": lambda r, _: jnp.mean(r.aux["orientation"]),
    "normal_smoothness": lambda r, _: loss.normal_smoothness(r.normal, r.opacity),
    "interlevel": lambda r, _: jnp.mean(r.aux["interlevel"]),
}
GEOMETRIC = ("z_variance", "distortion", "orientation", "normal_smoothness")
OF_NORMALS = ("orientation", "normal_smoothness")
GUIDE_HIDDEN = 16  # width of the proposal's network


def nerf(
    *,
    levels: int = 8,
    features: int = 2,
    log2_size: int = 14,
    base: int = 4,
    growth: float = 1.5,
    smooth: bool = False,
    band_first: int = 0,
    band_start: int = 0,
    band_every: int = 100,
    hidden: int = 64,
    scene: str = "box",
    bound: float = 1.0,
    activation: str = "softplus",
    blob_scale: float = 10.0,
    blob_radius: float = 0.5,
    view_degree: int = 0,
    background_degree: int = 0,
    coarse: int = 24,
    fine: int = 24,
    kernel: int = 3,
    proposal: int = 0,
    occupancy: int = 0,
    room: float = 1.0,
    chunk: int = 0,
    normals: str = "analytic",
    lambertian: float = 0.0,
    textureless: float = 0.0,
    z_reduction: str = "mean",
    ramp_steps: int = 0,
    background: str | Sequence[float] = "random",
    losses: Mapping[str, float] | None = None,
) -> Representation:
    """A field in a cube or in all of space, seen along rays.

    levels, features, log2_size, base, growth, smooth: the hash grid (hash_grid.py);
    band_first: levels that count from the beginning, then one more each `band_every`
    steps from `band_start` on (0: all from the beginning); hidden: width of the
    networks; scene: "box", the cube [-bound, bound]^3, or "contracted", all of space,
    outside the ball of radius `bound` ever more coarsely; activation: "softplus" or
    "exp", with a blob of density (field.py); view_degree: of the spherical harmonics of
    the ray that colours see (0: none); background_degree: the same of a learnt
    background in the place of `background` (0: none); coarse, fine: points a ray;
    kernel: width of the smoothing (odd, 1: none); proposal: levels of the grid of a
    density of its own, which chooses the fine points in the place of the field, learns
    from losses' "interlevel" alone and is a parameter group (0: none); occupancy: cells
    a side of a grid of what is empty (0: none); room: the share of a chunk's points
    that is looked at where such a grid is kept (1: all; of less, those farthest away
    go without if more are occupied, and "dropped" is reported); chunk: rays at once, of
    each view (0: 512 on a CPU, whose caches hold what they need, elsewhere 4096);
    normals: "analytic" or "finite_difference"; lambertian, textureless: probabilities a
    view of shading with and without texture; z_reduction: "mean", "counted" or "sum"
    (losses.reduce_rays); ramp_steps: steps over which the geometric losses rise to
    their weights; background: "random" (a flat colour a view, drawn from the key; white
    without a key), "white" or rgb; losses: weight of each regulariser (REGULARIZERS).
    Raises ValueError on a setting outside its range.
    """
    settings = dict(locals())
    check(settings, REGULARIZERS)
    size: dict[str, Any] = {
        name: settings[name]
        for name in ("features", "log2_size", "base", "growth", "smooth")
    }
    field = Field(
        hash_grid.make_grid(levels=levels, **size), bound, hidden, activation,
        blob_scale, blob_radius, view_degree, background_degree, scene,
    )  # fmt: skip
    guide = None
    if proposal:
        grid = hash_grid.make_grid(levels=proposal, **size)
        guide = field._replace(grid=grid, hidden=GUIDE_HIDDEN)
    weights = {name: w for name, w in dict(losses or {}).items() if w}
    shaded = lambertian + textureless > 0
    at_points = shaded or any(name in weights for name in OF_NORMALS)
    static = _Static(
        field,
        Sampling(
            coarse, fine, kernel, tuple(weights), normals if at_points else None,
            guide, room,
        ),
        (band_first, band_start, band_every) if band_first else None,
        occupancy, chunk or chunk_size(), background,
        (lambertian, textureless) if shaded else None,
    )  # fmt: skip

    def regularize(params, state, renderings, step):
        del params, state
        ramp = jnp.minimum(1.0, step / ramp_steps) if ramp_steps else 1.0
        terms = {
            name: weight
            * (ramp if name in GEOMETRIC else 1.0)
            * REGULARIZERS[name](renderings, z_reduction)
            for name, weight in weights.items()
        }
        return sum(terms.values(), jnp.zeros(())), terms

    return Representation(
        init=partial(_begin, static),
        render=partial(_render, static),
        space="image",
        regularize=regularize,
        control=partial(_control, static) if band_first or occupancy else None,
        field=lambda params, state, x: look_at(field, params, state.level_weights, x),
    )


def chunk_size() -> int:
    """Rays at once. On a CPU chunks of 4096 take 1.2 to 1.6 times as long as those of
    512 (toybox field, 64x64, with gradient); elsewhere nothing is measured yet."""
    return 512 if jax.default_backend() == "cpu" else 4096


class _Static(NamedTuple):
    """What a field is drawn with; band: (first, start, every) or None; cells: a side of
    the occupancy grid, or 0; light: probabilities (lambertian, textureless) or None."""

    field: Field
    sampling: Sampling
    band: tuple[int, int, int] | None
    cells: int
    chunk: int
    background: str | Sequence[float]
    light: tuple[float, float] | None

    def level_weights(self, step) -> Array:
        """[L] of the progressive band."""
        levels = len(self.field.grid.levels)
        if self.band is None:
            return jnp.ones(levels)
        first, start, every = self.band
        return hash_grid.band_weights(
            step, levels, first=first, start=start, every=every
        )

    def known(self, state: NerfState) -> Known:
        """What a state says of the field."""
        return Known(
            state.level_weights if self.band else None,
            occupied.occupied(state.occupancy) if self.cells else None,
        )

    def depth(self, params: NerfParams, state: NerfState):
        """place [... 3] -> optical depth of its cell, [...]."""
        weights = state.level_weights if self.band else None
        return partial(occupied.optical_depth, self.field, params, weights, self.cells)


def _begin(static: _Static, key: Array) -> tuple[NerfParams, NerfState]:
    key_guide, key_cells = jax.random.split(jax.random.fold_in(key, 1))
    params = init_field(key, static.field)
    state = NerfState(static.level_weights(0))
    guide = static.sampling.guide
    if guide is not None:
        params = params._replace(proposal=init_guide(key_guide, guide))
    if static.cells:
        cells = occupied.begin(static.depth(params, state), key_cells, static.cells)
        state = state._replace(occupancy=cells)
    return params, state


def _view(static: _Static, params, camera: Camera, key: Array | None, directions):
    # offsets [h w 2], light and background of a view
    shape = directions.shape[:-1]
    if key is None:
        return jnp.full((*shape, 2), 0.5), None, jnp.ones(3)
    key_offset, key_light, key_background = jax.random.split(key, 3)
    light, behind = (
        None,
        draw_background(static.background, key_background, jnp.result_type(float)),
    )
    if static.light:
        lambertian, textureless = static.light
        light = shading.draw_light(
            key_light, camera_position(camera),
            lambertian=lambertian, textureless=textureless,
        )  # fmt: skip
    if static.field.background_degree:
        behind = background_of(static.field, params, directions)
    return jax.random.uniform(key_offset, (*shape, 2)), light, behind


def _render(static, params, state, camera: Camera, key: Array | None) -> Rendering:
    rays, known = volume.camera_rays(camera), static.known(state)
    u, light, behind = _view(static, params, camera, key, rays.directions)
    places = partial(ray_points, static.field, static.sampling)
    draw = partial(draw_points, static.field, static.sampling)
    if rays.forward.size > static.chunk:
        # What a chunk needs is computed anew when its gradient is; of a single chunk
        # that would save nothing.
        draw = jax.checkpoint(draw)
        places = jax.checkpoint(places) if static.sampling.guide else places

    def one_chunk(part):
        rays, u = part
        return draw(params, known, light, rays, places(params, known, rays, u))

    drawn = in_chunks(one_chunk, (rays, u), static.chunk)
    return Rendering(
        rgb=volume.over_background(drawn.rgb, drawn.opacity, behind),
        opacity=drawn.opacity,
        depth=drawn.depth,
        normal=drawn.normal,
        aux=drawn.terms,
    )


def _control(static: _Static, key, step, params, state: NerfState, aux):
    # No rows move; the band and the grid are those of the step that comes next.
    state, report = state._replace(level_weights=static.level_weights(step + 1)), {}
    if static.cells:
        cells = occupied.update(static.depth(params, state), key, step, state.occupancy)
        state, report = state._replace(occupancy=cells), _report(cells, aux)
    nothing = RowEdit(jnp.zeros(0, jnp.int32), jnp.zeros(0, bool), report)
    return params, state, nothing


def _report(cells: Array, aux) -> dict[str, Array]:
    # the share of cells that is occupied; a ray's mean of points in them, and of those
    # that found no room
    counts = {
        name: jnp.mean(value.astype(jnp.float32))
        for name, value in aux["renderings"].aux.items()
        if name in ("samples", "dropped")
    }
    return {"occupied": jnp.mean(occupied.occupied(cells)), **counts}
