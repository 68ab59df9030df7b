"""A radiance field: `representation` (the NeRF as a
`Representation`, its settings checked in `settings`), `field` (density and colour of a
point, from `hash_grid` and two small networks), `ray_sampling` (where rays look and
what they see), `occupancy_grid`, `active_points` (work on some points only) and
`shading`.
"""

from sdsjax.representations.radiance_field.representation import (
    REGULARIZERS,
    NerfParams,
    NerfState,
    nerf,
)

__all__ = ["REGULARIZERS", "NerfParams", "NerfState", "nerf"]
