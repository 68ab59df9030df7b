"""Spherical harmonics against their defining properties and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.render import spherical_harmonics as sh


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
    basis = np.asarray(sh.basis(jnp.asarray(points), 3), np.float64)
    gram = np.einsum("mi,mj,m->ij", basis, basis, weights)
    np.testing.assert_allclose(gram, np.eye(16), atol=2e-6)


def test_each_degree_solves_laplace():
    """r^l Y_lm is harmonic: its Laplacian vanishes, off the sphere too."""

    def solid(point):
        radius = jnp.linalg.norm(point)
        degree = np.repeat(np.arange(4.0), [1, 3, 5, 7])
        return sh.basis(point / radius, 3) * radius**degree

    hessian = jax.jit(jax.hessian(solid))(jnp.array([0.3, -0.7, 0.5]))
    laplacian = jnp.trace(hessian, axis1=1, axis2=2)
    assert jnp.max(jnp.abs(laplacian)) < 1e-4 * jnp.max(jnp.abs(hessian))


def test_signs_and_order_of_gaussian_splatting():
    x, y, z = 0.48, -0.6, 0.64
    got = sh.basis(jnp.array([x, y, z]), 2)
    want = [0.2820948, -0.4886025 * y, 0.4886025 * z, -0.4886025 * x]
    want += [1.0925484 * x * y, -1.0925484 * y * z]
    want += [0.3153916 * (2 * z * z - x * x - y * y), -1.0925484 * x * z]
    want += [0.5462742 * (x * x - y * y)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_colour_of_degree_zero_and_its_inverse():
    rgb = jnp.array([[0.0, 0.25, 1.0], [0.5, 0.1, 0.7]])
    coefficients = sh.coefficient_of_colour(rgb)[:, None]
    directions = jnp.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(sh.colour(coefficients, directions), rgb, atol=1e-6)
    dark = sh.colour(jnp.full((1, 1, 3), -9.0), directions[:1])
    assert jnp.all(dark == 0)


def test_higher_coefficients_at_zero_change_nothing():
    low = jax.random.normal(jax.random.key(0), (5, 1, 3))
    directions = jax.random.normal(jax.random.key(1), (5, 3))
    high = jnp.concatenate([low, jnp.zeros((5, 15, 3))], axis=1)
    np.testing.assert_allclose(
        sh.colour(high, directions), sh.colour(low, directions), atol=1e-6
    )


def test_wrong_count_is_named():
    with pytest.raises(ValueError, match=r"7 spherical.*1, 4, 9 or 16"):
        sh.degree_of(7)
