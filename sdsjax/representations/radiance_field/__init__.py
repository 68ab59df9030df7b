"""A radiance field as a representation: a hash grid seen along rays.

`representation` makes the NeRF from the checked `settings`. `field` has the density and
colour of a point, from `hash_grid` (one level: `hash_grid_level`) and two small
networks (`mlp`), in a cube or in all of space (`scene_contraction`), with `normals` and
`shading`. `ray_sampling` chooses the points along rays, `ray_rendering` evaluates and
accumulates them, `ray_chunks` bounds the memory; `occupancy_grid` remembers what is
empty, and `active_points` leaves that out.
"""

from sdsjax.representations.radiance_field.representation import (
    REGULARIZERS,
    NerfParams,
    NerfState,
    nerf,
)

__all__ = ["REGULARIZERS", "NerfParams", "NerfState", "nerf"]
