"""Spherical harmonics against their defining properties and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.render import spherical_harmonics as sh

_basis, colour = jax.jit(sh.basis, static_argnums=1), jax.jit(sh.colour)


def basis(directions, degree):
    return np.asarray(_basis(np.float32(directions), degree))


def quadrature(steps=16):
    """Points [m 3] and weights [m] exact for polynomials of degree < 2 steps."""
    z, w = np.polynomial.legendre.leggauss(steps)
    phi = 2 * np.pi * np.arange(2 * steps) / (2 * steps)
    z, phi = (a.ravel() for a in np.meshgrid(z, phi, indexing="ij"))
    rho = np.sqrt(1 - z**2)
    weights = np.repeat(w, 2 * steps) * np.pi / steps
    return np.stack([rho * np.cos(phi), rho * np.sin(phi), z], axis=-1), weights


def test_basis_is_orthonormal():
    points, weights = quadrature()
    values = np.float64(basis(points, 3))
    gram = np.einsum("mi,mj,m->ij", values, values, weights)
    np.testing.assert_allclose(gram, np.eye(16), atol=2e-6)


def test_each_degree_solves_laplace():
    """r^l Y_lm is harmonic: its Laplacian vanishes, off the sphere too."""

    def solid(point):
        radius = jnp.linalg.norm(point)
        degree = np.repeat(np.arange(4.0), [1, 3, 5, 7])
        return sh.basis(point / radius, 3) * radius**degree

    point = np.float32([0.3, -0.7, 0.5])
    hessian = np.asarray(jax.jit(jax.hessian(solid))(point))
    laplacian = np.trace(hessian, axis1=1, axis2=2)
    assert np.max(np.abs(laplacian)) < 1e-4 * np.max(np.abs(hessian))


def test_signs_and_order_of_gaussian_splatting():
    x, y, z = 0.48, -0.6, 0.64
    got = basis([x, y, z], 2)
    want = [0.2820948, -0.4886025 * y, 0.4886025 * z, -0.4886025 * x]
    want += [1.0925484 * x * y, -1.0925484 * y * z]
    want += [0.3153916 * (2 * z * z - x * x - y * y), -1.0925484 * x * z]
    want += [0.5462742 * (x * x - y * y)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_colour_of_degree_zero_and_its_inverse():
    rgb = np.float32([[0.0, 0.25, 1.0], [0.5, 0.1, 0.7]])
    coefficients = sh.coefficient_of_colour(rgb)[:, None]
    directions = np.float32([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(colour(coefficients, directions), rgb, atol=1e-6)
    dark = colour(np.full((2, 1, 3), -9.0, np.float32), directions)
    np.testing.assert_array_equal(dark, 0)


def test_higher_coefficients_at_zero_change_nothing():
    draw = np.random.default_rng(0).normal
    low, directions = np.float32(draw(size=(5, 1, 3))), np.float32(draw(size=(5, 3)))
    high = np.concatenate([low, np.zeros((5, 15, 3), np.float32)], axis=1)
    got, want = colour(high, directions), colour(low, directions)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_wrong_count_is_named():
    with pytest.raises(ValueError, match=r"7 spherical.*1, 4, 9 or 16"):
        sh.degree_of(7)
