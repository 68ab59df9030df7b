"""Primitives: distances never overstate, supports never understate."""

import jax
import numpy as np
import pytest

from sdsjax.toybox.world.primitives import DISTANCES, SIZE_LENGTH, support

SIZES = {
    "ellipsoid": (0.3, 0.7, 0.5),
    "box": (0.4, 0.6, 0.3, 0.1),
    "cone": (0.6, 0.2, 0.5, 0.05),
    "torus": (0.5, 0.2),
    "frustum": (0.6, 0.4, 0.2, 0.1, 0.5, 0.3),
    "tube": (0.6, 0.2, 0.4, 0.03),
}


_DISTANCES = {shape: jax.jit(distance) for shape, distance in DISTANCES.items()}
PIECE = 20_000


def _size(shape):
    size = np.zeros(SIZE_LENGTH, np.float32)
    size[: len(SIZES[shape])] = SIZES[shape]
    return size


def _distance(shape, points):
    """Of points [n 3], in pieces of one length: one program a shape."""
    padded = np.pad(points, ((0, -len(points) % PIECE), (0, 0))).astype(np.float32)
    size, distance = _size(shape), _DISTANCES[shape]
    pieces = padded.reshape(-1, PIECE, 3)
    return np.concatenate([distance(size, *p.T) for p in pieces])[: len(points)]


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).uniform(-1.2, 1.2, (PIECE, 3))


def test_every_shape_is_tested():
    assert set(SIZES) == set(DISTANCES)


@pytest.mark.parametrize("shape", SIZES)
def test_distance_is_a_lower_bound_and_not_a_vacuous_one(shape, points):
    distance = _distance(shape, points)
    inside = points[distance < 0]
    outside, stated = points[distance > 0][:300], distance[distance > 0][:300]
    assert len(inside) > 100
    gap = np.linalg.norm(outside[:, None] - inside[None], axis=-1).min(axis=1)
    assert (stated <= gap + 1e-4).all()
    # within a factor of the truth, but for the spacing of the sampled inside
    assert (stated > 0.4 * (gap - 0.15)).all()


@pytest.mark.parametrize("shape", ["box", "cone", "torus", "tube"])
def test_exact_distances_step_onto_the_surface(shape, points):
    distance = _distance(shape, points)
    outside, stated = points[distance > 0.05][:2000], distance[distance > 0.05][:2000]
    eps = 1e-2
    gradient = np.stack(
        [
            _distance(shape, outside + eps * axis)
            - _distance(shape, outside - eps * axis)
            for axis in np.eye(3)
        ],
        axis=-1,
    )
    gradient /= np.linalg.norm(gradient, axis=-1, keepdims=True)
    landed = np.abs(_distance(shape, outside - stated[:, None] * gradient))
    # at a crease's medial plane the difference quotient is blurred
    assert np.quantile(landed, 0.97) < 2e-3


@pytest.mark.parametrize("shape", SIZES)
def test_support_is_the_farthest_inside_point(shape):
    rng = np.random.default_rng(1)
    dense = rng.uniform(-1, 1, (400_000, 3))
    inside = dense[_distance(shape, dense) < 0]
    directions = rng.normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    reached = (inside @ directions.T).max(axis=0)
    stated = support(shape, _size(shape), directions)
    assert (reached <= stated + 1e-5).all()
    assert (reached > stated - 0.12).all()
