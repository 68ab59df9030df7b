"""VSD: SDS where psi has converged, what training psi does, the dropped camera."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_prior import SCHEDULE, linear_prior

from sdsjax.cameras import Camera
from sdsjax.estimators import ESTIMATORS
from sdsjax.estimators.csd import csd_direction
from sdsjax.estimators.vsd import noise_loss, without_camera
from sdsjax.priors.gaussian_mixture import AffineAdapter
from sdsjax.types import View

Z = np.float32([0.4, -0.7])


def camera(n=1):
    matrix = np.broadcast_to(np.eye(4, dtype=np.float32), (n, 4, 4))
    return View(Camera(matrix, *np.ones((2, n, 2), np.float32), 8, 8))


def test_one_particle_a_known_camera_and_a_converged_psi_are_sds():
    """q(z_t) is N(alpha z, sigma^2): e_psi = eps, sample by sample (method.md)."""
    prior = linear_prior()
    vsd, sds = (
        ESTIMATORS[n](SCHEDULE, guidance_scale=7.5, weighting="one")
        for n in ("vsd", "sds")
    )

    @jax.jit
    @jax.vmap
    def both(key, t):
        state = vsd.init(prior, jax.random.key(0), Z)
        state = state._replace(psi=AffineAdapter(Z, jnp.float32(-60.0)))
        a = vsd.estimate(prior, key, state, Z, t, None)
        return a.grad, sds.estimate(prior, key, (), Z, t, None).grad

    ts = np.int32([20, 100, 300, 700, 980])
    a, b = both(jax.random.split(jax.random.key(1), 5), ts)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def train(prior, steps, lr=0.02, n=4):
    estimator = ESTIMATORS["vsd"](SCHEDULE, adapter_lr=lr)
    zs, ts, views = np.broadcast_to(Z, (n, 2)), np.zeros(n, np.int32), camera(n)

    def step(state, key):
        new = estimator.learn(prior, key, state, zs, ts, views, None, None)
        return new, new.loss

    @jax.jit
    def whole(keys):
        start = estimator.init(prior, jax.random.key(0), Z)
        return start, *jax.lax.scan(step, start, keys)

    return jax.device_get(whole(jax.random.split(jax.random.key(1), steps)))


def test_psi_learns_the_noise_of_what_is_rendered():
    start, end, losses = train(linear_prior(), 600)
    # Adam wanders by some of its steps of .02
    np.testing.assert_allclose(end.psi.mean, Z, atol=0.06)
    assert end.psi.log_variance < start.psi.log_variance - 1.0
    assert losses[-50:].mean() < 0.5 * losses[:50].mean()


@pytest.mark.slow
def test_the_adapter_s_noise_is_fresh_and_z_gets_no_gradient():
    prior = linear_prior()
    psi = prior.adapter.init(jax.random.key(0))

    def loss(z, key):
        return noise_loss(SCHEDULE, prior.adapter, psi, key, z, None, 0.1)

    a, b = (loss(Z, jax.random.key(i)) for i in (0, 1))
    assert a != b
    estimator = ESTIMATORS["vsd"](SCHEDULE)
    state = estimator.init(prior, jax.random.key(0), Z)

    def trained(z):
        zs, key = z[None], jax.random.key(0)
        return estimator.learn(prior, key, state, zs, None, None, None, None).loss

    np.testing.assert_array_equal(jax.grad(trained)(Z), 0.0)


def test_a_dropped_camera_is_the_null_camera():
    """drop_camera = .1: a tenth of the adapter's views have a matrix of zeros."""
    view = camera()._replace(rendering=None)
    assert without_camera(None, True) is None
    kept, dropped = (without_camera(view, drop) for drop in (False, True))
    np.testing.assert_array_equal(
        kept.camera.world_to_camera, view.camera.world_to_camera
    )
    np.testing.assert_array_equal(dropped.camera.world_to_camera, 0.0)
    prior = linear_prior()

    def noise(psi, z_t, t, view):  # a loss of 1 where the camera is known, else 0
        known = view.camera.world_to_camera[0, 0] != 0
        return jnp.where(known, jnp.inf, 0.0) * z_t

    spying = prior.adapter._replace(noise=noise)
    one = jax.tree.map(lambda leaf: leaf[0], camera())

    def known(key):
        loss = noise_loss(SCHEDULE, spying, (), key, Z, one, 0.1)
        return ~jnp.isfinite(loss)

    found = jax.jit(jax.vmap(known))(jax.random.split(jax.random.key(0), 4000))
    assert abs(np.mean(found) - 0.9) < 0.03


def test_without_a_camera_the_second_network_sees_none():
    """drop_camera = 1: the null camera in e_psi too, whatever the view holds."""
    prior, key = linear_prior(), jax.random.key(0)
    one = jax.tree.map(lambda leaf: leaf[0], camera())

    def noise(psi, z_t, t, view):
        return jnp.sum(jnp.abs(view.camera.world_to_camera)) + 0.0 * z_t

    spying = prior._replace(adapter=prior.adapter._replace(noise=noise))

    @jax.jit
    def norms(one):
        found = []
        for drop in (0.1, 1.0):
            estimator = ESTIMATORS["vsd"](SCHEDULE, drop_camera=drop)
            state = estimator.init(prior, key, Z)
            estimate = estimator.estimate(spying, key, state, Z, jnp.int32(300), one)
            found.append(estimate.aux["adapter_norm"])
        return found

    for found, seen in zip(norms(one), (4.0, 0.0), strict=True):
        assert float(found) == pytest.approx(seen * 2**0.5)


def test_csd_moves_from_the_negative_prompt_to_none():
    """a at step i of `anneal_steps`: -1 -> 0 linearly, and it stays."""
    prior, key = linear_prior(), jax.random.key(1)
    estimator = ESTIMATORS["csd"](
        SCHEDULE, negative=-1.0, negative_end=0.0, anneal_steps=2, weighting="one"
    )
    plain = ESTIMATORS["mode_disengaging"](SCHEDULE, weighting="one")

    @jax.jit
    def step(state):
        estimate = estimator.estimate(prior, key, state, Z, jnp.int32(300), None)
        h = plain.estimate(prior, key, (), Z, jnp.int32(300), None).grad
        after = estimator.learn(prior, key, state, Z[None], None, None, None, None)
        return estimate, h, after

    state, seen = estimator.init(prior, key, Z), []
    for _ in range(4):
        estimate, h, state = step(state)
        seen.append(float(estimate.aux["a"]))
    assert seen == [-1.0, -0.5, 0.0, 0.0]
    np.testing.assert_allclose(estimate.grad, h, atol=1e-6)
    cond, uncond, negative = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(
        csd_direction(cond, uncond, negative, -0.25), [1.0, -0.75, -0.25]
    )
