"""View words, and the orbits that training and scoring draw.

Azimuth and elevation in degrees as in `sdsjax.cameras.orbit_camera`: azimuth 0 sees the
front, +90 the object's own left side, 180 the back; distance in world units.
"""

import jax
import jax.numpy as jnp

from sdsjax.diffusion.prompts import (
    BACK,
    FRONT,
    LEFT,
    OVERHEAD,
    RIGHT,
    TWO_SIDED,
    view_index,
)

__all__ = ["BACK", "FRONT", "LEFT", "OVERHEAD", "RIGHT", "view_index"]

VIEW_WORDS = tuple(TWO_SIDED)
FOV_DEG = 40.0
DISTANCE = 3.1
# One orbit a view word, where each word is at its plainest.
CANONICAL_ORBITS = (
    (0.0, 15.0),
    (90.0, 15.0),
    (-90.0, 15.0),
    (180.0, 15.0),
    (0.0, 75.0),
)


def draw_orbit(key):
    """A training view: (azimuth, elevation, distance), scalars.

    Azimuth uniform; elevation uniform in [-10, 45], but for a tenth in [60, 85].
    """
    key_azimuth, key_elevation, key_overhead, key_distance = jax.random.split(key, 4)
    azimuth = jax.random.uniform(key_azimuth, minval=-180.0, maxval=180.0)
    unit = jax.random.uniform(key_elevation)
    overhead = jax.random.bernoulli(key_overhead, 0.1)
    elevation = jnp.where(overhead, 60.0 + 25.0 * unit, -10.0 + 55.0 * unit)
    distance = jax.random.uniform(key_distance, minval=2.9, maxval=3.3)
    return azimuth, elevation, distance


def spread_azimuths(first, count: int):
    """Spreads `count` azimuths evenly round the object, from `first` [...] on.

    [..., count] degrees in (-180, 180].
    """
    turned = jnp.asarray(first)[..., None] + jnp.arange(count) * (360.0 / count)
    return 180.0 - (180.0 - turned) % 360.0


def heldout_orbits():
    """The fixed scoring views: 16 of (azimuth, elevation, distance).

    Eight azimuths, off the canonical ones by 10 degrees, at elevations 5 and 30.
    """
    azimuths = [10.0 + 45.0 * i for i in range(8)]
    return tuple(
        ((azimuth + 180.0) % 360.0 - 180.0, elevation, DISTANCE)
        for elevation in (5.0, 30.0)
        for azimuth in azimuths
    )
