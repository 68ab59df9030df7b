"""Signed distances of the toybox's six primitives, and their supports.

Notation: every primitive sits at the origin of its own frame, axis of revolution y.
A distance takes `size` [SIZE_LENGTH] (lengths, meaning by type, see below) and the
coordinates x, y, z as three arrays of one shape [...] (coordinate-major, because XLA
vectorises over the last axis), and returns [...]: negative inside, and outside never
more than the Euclidean distance, so that sphere tracing cannot step through a surface.
`round` is a fillet radius inside the stated sizes, never beyond them.

| type      | size                                                              |
|-----------|-------------------------------------------------------------------|
| ellipsoid | rx, ry, rz                                                        |
| box       | hx, hy, hz (half extents), round                                  |
| cone      | bottom radius, top radius, half height, round (equal: cylinder)   |
| torus     | ring radius, thickness radius                                     |
| frustum   | bottom hx, bottom hz, top hx, top hz, half height, top's x shift  |
| tube      | outer radius, wall thickness, half height, round                  |

The closed forms are the usual exact ones (I. Quilez, "Distance functions"), but for the
ellipsoid and the frustum, which are lower bounds of the distance outside.
"""

import jax.numpy as jnp
import numpy as np

SIZE_LENGTH = 6
_TINY = 1e-12  # keeps square roots and quotients finite on an axis or at a centre


def _length(*coordinates):
    return jnp.sqrt(sum(c * c for c in coordinates) + _TINY)


def ellipsoid(size, x, y, z):
    """The distance of an ellipsoid of radii r, bounded from below outside of it.

    k0 (k0 - 1) / k1 with k0 = |p / r| and k1 = |p / r^2|. k0 is convex with gradient
    norm k1 / k0, so that its tangent plane at p gives a lower bound of the distance for
    every p outside.
    """
    rx, ry, rz = size[0], size[1], size[2]
    k0 = _length(x / rx, y / ry, z / rz)
    k1 = _length(x / (rx * rx), y / (ry * ry), z / (rz * rz))
    return k0 * (k0 - 1.0) / k1


def box(size, x, y, z):
    """The exact distance of a box with rounded edges.

    size: half extents along x, y, z, and the edges' radius.
    """
    round_ = size[3]
    qx = jnp.abs(x) - (size[0] - round_)
    qy = jnp.abs(y) - (size[1] - round_)
    qz = jnp.abs(z) - (size[2] - round_)
    outside = _length(jnp.maximum(qx, 0), jnp.maximum(qy, 0), jnp.maximum(qz, 0))
    inside = jnp.minimum(jnp.maximum(qx, jnp.maximum(qy, qz)), 0)
    return outside + inside - round_


def cone(size, x, y, z):
    """Exact: a capped cone, the distance to a trapezoid in the (radius, y) plane."""
    round_ = size[3]
    bottom, top, half = size[0] - round_, size[1] - round_, size[2] - round_
    radius = _length(x, z)
    cap = jnp.where(y < 0, bottom, top)
    cap_r, cap_y = radius - jnp.minimum(radius, cap), jnp.abs(y) - half
    # nearest point of the slanted side, from (top, half) to (bottom, -half)
    side_r, side_y = bottom - top, -2 * half
    along = (radius - top) * side_r + (y - half) * side_y
    along = jnp.clip(along / (side_r * side_r + side_y * side_y + _TINY), 0, 1)
    off_r, off_y = radius - top - side_r * along, y - half - side_y * along
    squared = jnp.minimum(cap_r * cap_r + cap_y * cap_y, off_r * off_r + off_y * off_y)
    inside = (off_r < 0) & (cap_y < 0)
    return jnp.where(inside, -1.0, 1.0) * jnp.sqrt(squared + _TINY) - round_


def torus(size, x, y, z):
    """Exact; the ring lies in the xz plane."""
    return _length(_length(x, z) - size[0], y) - size[1]


def frustum(size, x, y, z):
    """Lower bound: the largest of the six planes' distances (exact inside).

    A box whose top face has its own half extents and a shift along x: pyramids, roofs,
    wedges, sails and fins.
    """
    half, shift = size[4], size[5]
    rise = 2 * half
    # x on the axis through both faces' centres moves by `shift` from bottom to top
    up = (y + half) / rise
    limit_x = size[0] + (size[2] - size[0]) * up
    limit_z = size[1] + (size[3] - size[1]) * up
    slope_z = (size[1] - size[3]) / rise
    slope_right = (size[0] - size[2] - shift) / rise
    slope_left = (size[0] - size[2] + shift) / rise
    right = (x - shift * up - limit_x) / jnp.sqrt(1 + slope_right * slope_right)
    left = (-x + shift * up - limit_x) / jnp.sqrt(1 + slope_left * slope_left)
    ends = (jnp.abs(z) - limit_z) / jnp.sqrt(1 + slope_z * slope_z)
    sides = jnp.maximum(jnp.maximum(left, right), ends)
    return jnp.maximum(sides, jnp.abs(y) - half)


def tube(size, x, y, z):
    """Exact: a rectangle revolved about y, open at both ends."""
    half_wall, round_ = size[1] / 2, size[3]
    qr = jnp.abs(_length(x, z) - (size[0] - half_wall)) - (half_wall - round_)
    qy = jnp.abs(y) - (size[2] - round_)
    outside = _length(jnp.maximum(qr, 0), jnp.maximum(qy, 0))
    return outside + jnp.minimum(jnp.maximum(qr, qy), 0) - round_


DISTANCES = {
    "ellipsoid": ellipsoid,
    "box": box,
    "cone": cone,
    "torus": torus,
    "frustum": frustum,
    "tube": tube,
}
TYPE_INDEX = {name: index for index, name in enumerate(DISTANCES)}


def support(shape, size, directions):
    """How far a primitive reaches along directions, in its own frame (host, numpy).

    Args:
        shape: a key of `DISTANCES`.
        size: [SIZE_LENGTH] lengths.
        directions: [n, 3] unit vectors.

    Returns:
        [n] the largest d . p over the primitive's points p.
    """
    x, y, z = np.asarray(directions, np.float64).T
    flat = np.hypot(x, z)
    if shape == "ellipsoid":
        return np.sqrt((size[0] * x) ** 2 + (size[1] * y) ** 2 + (size[2] * z) ** 2)
    if shape == "torus":
        return size[0] * flat + size[1]
    if shape == "box":
        core = np.asarray(size[:3]) - size[3]
        return np.abs(directions) @ core + size[3]
    if shape == "tube":
        return (size[0] - size[3]) * flat + (size[2] - size[3]) * np.abs(y) + size[3]
    if shape == "cone":
        bottom, top, half = (value - size[3] for value in size[:3])
        ends = np.maximum(bottom * flat - half * y, top * flat + half * y)
        return ends + size[3]
    bottom = size[0] * np.abs(x) + size[1] * np.abs(z) - size[4] * y
    top = size[2] * np.abs(x) + size[3] * np.abs(z) + size[4] * y + size[5] * x
    return np.maximum(bottom, top)
