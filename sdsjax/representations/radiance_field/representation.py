"""A radiance field as a `Representation`: a hash grid, two networks, rays.

Parameters and state: field.py; the samples of a ray: ray_sampling.py; what a ray sees:
ray_rendering.py; what is known to be empty: occupancy_grid.py. With a key every ray
draws one offset for its coarse points and one for its fine ones, and the background is
drawn too; without a key both offsets are the centres of their strata, and the
background is white. Rays go in chunks, and the backward pass computes what a chunk sees
anew (jax.checkpoint). Normals of single points are computed where a loss or the shading
asks for them. A Rendering's aux has the terms of single rays [h w], and with an
occupancy grid "samples", a ray's points in occupied cells, and "dropped", those for
which there was no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.backend import target
from sdsjax.cameras import Camera, camera_position
from sdsjax.render.raymarching import volume_rendering as volume
from sdsjax.representations.backgrounds import draw_background
from sdsjax.representations.radiance_field import hash_grid, occupancy_grid, shading
from sdsjax.representations.radiance_field.field import (
    FieldSettings,
    NerfParams,
    NerfState,
    background_colour,
    init_field,
    init_proposal,
    query_field,
)
from sdsjax.representations.radiance_field.ray_chunks import (
    default_chunk_size,
    map_in_chunks,
)
from sdsjax.representations.radiance_field.ray_rendering import render_rays
from sdsjax.representations.radiance_field.ray_sampling import (
    FieldState,
    SamplingSettings,
    sample_rays,
)
from sdsjax.representations.radiance_field.settings import NerfSettings, check_settings
from sdsjax.representations.regularizers import sum_of_terms
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
# those that `ramp_steps` lets rise slowly, and those that need normals of points
GEOMETRIC = ("z_variance", "distortion", "orientation", "normal_smoothness")
NEED_NORMALS = ("orientation", "normal_smoothness")
PROPOSAL_HIDDEN = 16  # width of the proposal's network


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
    """Makes the representation of a field in a cube or in all of space.

    Each argument is a field of `NerfSettings`, whose docstring says what it means.
    Raises ValueError with one line for a setting outside its range.
    """
    settings = NerfSettings(**locals())
    check_settings(settings, REGULARIZERS)
    setup = make_setup(settings)
    changes = setup.band is not None or setup.occupancy_side > 0
    return Representation(
        init=partial(_init, setup),
        render=partial(_render, setup),
        space="image",
        regularize=partial(_regularize, settings),
        control=partial(_update_state, setup) if changes else None,
        field=partial(_query, setup),
    )


class NerfSetup(NamedTuple):
    """The static facts that a field is initialised, rendered and updated with.

    band: (first, start, every) of the progressive band, or None; occupancy_side: cells
    a side of the occupancy grid, or 0; chunk: rays at once; lighting: probabilities
    (lambertian, textureless) of a shaded view, or None where none is shaded.
    """

    field: FieldSettings
    sampling: SamplingSettings
    band: tuple[int, int, int] | None
    occupancy_side: int
    chunk: int
    background: str | Sequence[float]
    lighting: tuple[float, float] | None


def make_setup(settings: NerfSettings) -> NerfSetup:
    """Turns the settings that a user gives into what the functions below take."""
    s = settings
    field = FieldSettings(
        _make_grid(s, s.levels), s.bound, s.hidden, s.activation, s.blob_scale,
        s.blob_radius, s.view_degree, s.background_degree, s.scene,
    )  # fmt: skip
    proposal = None
    if s.proposal:
        grid = _make_grid(s, s.proposal)
        proposal = field._replace(grid=grid, hidden=PROPOSAL_HIDDEN)
    shaded = s.lambertian + s.textureless > 0
    need_normals = shaded or any(name in s.loss_weights for name in NEED_NORMALS)
    sampling = SamplingSettings(
        s.coarse, s.fine, s.kernel, tuple(s.loss_weights),
        s.normals if need_normals else None, proposal, s.room,
    )  # fmt: skip
    return NerfSetup(
        field,
        sampling,
        (s.band_first, s.band_start, s.band_every) if s.band_first else None,
        s.occupancy,
        s.chunk or default_chunk_size(target()),
        s.background,
        (s.lambertian, s.textureless) if shaded else None,
    )


def _make_grid(settings: NerfSettings, levels: int) -> hash_grid.HashGrid:
    return hash_grid.make_grid(
        levels=levels,
        features=settings.features,
        log2_size=settings.log2_size,
        base=settings.base,
        growth=settings.growth,
        smooth=settings.smooth,
    )


def _level_weights(setup: NerfSetup, step: Array | int) -> Array:
    # [L] of the progressive band after `step` updates
    levels = len(setup.field.grid.levels)
    if setup.band is None:
        return jnp.ones(levels)
    first, start, every = setup.band
    return hash_grid.band_weights(step, levels, first=first, start=start, every=every)


def _field_state(setup: NerfSetup, state: NerfState) -> FieldState:
    occupied = None
    if setup.occupancy_side:
        occupied = occupancy_grid.occupied_cells(state.occupancy)
    return FieldState(state.level_weights if setup.band else None, occupied)


def _depth_at(setup: NerfSetup, params: NerfParams, state: NerfState):
    # position [... 3] in the unit cube -> optical depth [...] of its cell
    return partial(
        occupancy_grid.optical_depth,
        setup.field,
        params,
        state.level_weights if setup.band else None,
        setup.occupancy_side,
    )


def _init(setup: NerfSetup, key: Array) -> tuple[NerfParams, NerfState]:
    key_proposal, key_occupancy = jax.random.split(jax.random.fold_in(key, 1))
    params = init_field(key, setup.field)
    state = NerfState(_level_weights(setup, 0))
    if setup.sampling.proposal is not None:
        proposal = init_proposal(key_proposal, setup.sampling.proposal)
        params = params._replace(proposal=proposal)
    if setup.occupancy_side:
        occupancy = occupancy_grid.init_occupancy(
            _depth_at(setup, params, state), key_occupancy, setup.occupancy_side
        )
        state = state._replace(occupancy=occupancy)
    return params, state


def _random_view(
    setup: NerfSetup, params, camera: Camera, key: Array | None, directions: Array
):
    # offsets [h w 2] of the samples, light and background of one view
    shape = directions.shape[:-1]
    if key is None:
        return jnp.full((*shape, 2), 0.5), None, jnp.ones(3)
    key_offset, key_light, key_background = jax.random.split(key, 3)
    light, dtype = None, jnp.result_type(float)
    background = draw_background(setup.background, key_background, dtype)
    if setup.lighting:
        lambertian, textureless = setup.lighting
        light = shading.draw_light(
            key_light, camera_position(camera),
            lambertian=lambertian, textureless=textureless,
        )  # fmt: skip
    if setup.field.background_degree:
        background = background_colour(setup.field, params, directions)
    return jax.random.uniform(key_offset, (*shape, 2)), light, background


def _render(
    setup: NerfSetup, params, state: NerfState, camera: Camera, key: Array | None
) -> Rendering:
    rays, field_state = volume.camera_rays(camera), _field_state(setup, state)
    offsets, light, background = _random_view(
        setup, params, camera, key, rays.directions
    )
    sample = partial(sample_rays, setup.field, setup.sampling)
    render = partial(render_rays, setup.field, setup.sampling)
    if rays.depth_per_distance.size > setup.chunk:
        # What a chunk needs is computed anew when its gradient is; of a single chunk
        # that would save nothing.
        render = jax.checkpoint(render)
        sample = jax.checkpoint(sample) if setup.sampling.proposal else sample

    def render_chunk(chunk):
        rays, offsets = chunk
        samples = sample(params, field_state, rays, offsets)
        return render(params, field_state, light, rays, samples)

    outputs = map_in_chunks(render_chunk, (rays, offsets), setup.chunk)
    return Rendering(
        rgb=volume.composite_over(outputs.rgb, outputs.opacity, background),
        opacity=outputs.opacity,
        depth=outputs.depth,
        normal=outputs.normal,
        aux=outputs.aux,
    )


def _regularize(settings: NerfSettings, params, state, renderings: Rendering, step):
    del params, state
    ramp_steps = settings.ramp_steps
    ramp = jnp.minimum(1.0, step / ramp_steps) if ramp_steps else 1.0
    terms = {
        name: weight
        * (ramp if name in GEOMETRIC else 1.0)
        * REGULARIZERS[name](renderings, settings.z_reduction)
        for name, weight in settings.loss_weights.items()
    }
    return sum_of_terms(terms)


def _update_state(setup: NerfSetup, key, step, params, state: NerfState, aux):
    # No rows move; the band and the grid are those of the step that comes next.
    state = state._replace(level_weights=_level_weights(setup, step + 1))
    report = {}
    if setup.occupancy_side:
        occupancy = occupancy_grid.update_occupancy(
            _depth_at(setup, params, state), key, step, state.occupancy
        )
        state = state._replace(occupancy=occupancy)
        report = _occupancy_report(occupancy, aux)
    no_edit = RowEdit(jnp.zeros(0, jnp.int32), jnp.zeros(0, bool), report)
    return params, state, no_edit


def _occupancy_report(occupancy: Array, aux) -> dict[str, Array]:
    # the share of cells that is occupied; a ray's mean of points in them, and of those
    # that found no room
    counts = {
        name: jnp.mean(value.astype(jnp.float32))
        for name, value in aux["renderings"].aux.items()
        if name in ("samples", "dropped")
    }
    occupied = occupancy_grid.occupied_cells(occupancy)
    return {"occupied": jnp.mean(occupied), **counts}


def _query(setup: NerfSetup, params: NerfParams, state: NerfState, x: Array):
    return query_field(setup.field, params, state.level_weights, x)
