"""The rasteriser's own gradient against autodiff and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from splat_scenes import (
    BACKGROUND,
    LEARNT,
    cloud,
    gradient,
    learnt_fields,
    orbits,
    projection,
    relative_error,
    small_camera,
    value_and_gradient,
)

from sdsjax.render.splatting.rasterize import rasterize, rasterize_reference

# The buffer is far too small: many slabs. One program of each function serves the tests
# that clamp.
CLAMPED = {"max_alpha": 0.7, "antialias": True}
CUT = {**CLAMPED, "capacity": 24}


@pytest.fixture(scope="module")
def scene():
    return cloud(60, k=4), small_camera()


@pytest.mark.parametrize("capacity", [4096, 24])
def test_gradient_equals_autodiff_of_the_reference(scene, capacity):
    settings = {} if capacity == 4096 else CLAMPED
    want = gradient(rasterize_reference, *scene, **settings)
    got = gradient(rasterize, *scene, **settings, capacity=capacity)
    for name in (*LEARNT, "background"):
        assert np.linalg.norm(want[name]) > 1e-3
        assert relative_error(got[name], want[name]) < 1e-5, name


def test_gradient_where_the_clamp_and_the_stop_act():
    gaussians, camera = cloud(60, k=4, opacity=6.0, scale=0.2), small_camera()
    want = gradient(rasterize_reference, gaussians, camera, **CLAMPED)
    got = gradient(rasterize, gaussians, camera, **CUT)
    for name in (*LEARNT, "background"):
        assert relative_error(got[name], want[name]) < 1e-5, name


def test_no_gradient_through_a_clamped_alpha():
    """A splat whose every visible pixel is clamped has no say in its own opacity."""
    one = cloud(60, k=4, opacity=6.0, scale=0.2)._replace(
        means=np.zeros((60, 3), np.float32),
        log_scales=np.full((60, 3), 3.0, np.float32),
        opacity_logits=np.full(60, 5.0, np.float32),
        alive=np.arange(60) == 7,
    )
    got = gradient(rasterize, one, small_camera(), **CUT)
    for name in ("log_scales", "opacity_logits"):
        assert not got[name].any(), name
    assert got["sh"][7].any()
    assert not got["sh"][:7].any()


@pytest.mark.slow
def test_float64_gradient_equals_reference_and_finite_differences():
    with enable_x64(True):
        gaussians = cloud(25, k=4, dtype=jnp.float64)
        camera = small_camera(width=16, height=16)
        got = gradient(rasterize, gaussians, camera, capacity=40)
        want = gradient(rasterize_reference, gaussians, camera)
        for name in (*LEARNT, "background"):
            assert relative_error(got[name], want[name]) < 1e-11, name
        learnt = learnt_fields(gaussians)
        for i, name in enumerate(LEARNT):
            step = np.random.default_rng(i).normal(size=learnt[name].shape)
            ahead, behind = (
                value_and_gradient(
                    rasterize_reference,
                    gaussians._replace(**{name: learnt[name] + h * step}),
                    camera,
                )[0][0]
                for h in (1e-6, -1e-6)
            )
            slope = np.vdot(want[name], step)
            np.testing.assert_allclose((ahead - behind) / 2e-6, slope, rtol=2e-6)


def of_means(gaussians, **settings):
    """`projection` as a function of the means and the camera."""
    learnt, background = learnt_fields(gaussians), np.float32(BACKGROUND)
    value = projection(rasterize, **settings)
    return lambda means, camera: value(
        {**learnt, "means": means}, background, gaussians.alive, camera
    )


@pytest.mark.slow
def test_forward_mode_is_the_transpose_of_reverse_mode(scene):
    gaussians, camera = scene
    value = of_means(gaussians, differentiation="forward", capacity=4096)

    @jax.jit
    def push(means, direction):
        of = lambda means: value(means, camera)  # noqa: E731
        return jax.jvp(of, (means,), (direction,), has_aux=True)

    direction = np.float32(np.random.default_rng(0).normal(size=(60, 3)))
    _, tangent, drawn = push(gaussians.means, direction)
    (_, same), slopes = value_and_gradient(rasterize, gaussians, camera, capacity=4096)
    np.testing.assert_allclose(drawn.rgb, same.rgb, atol=1e-6)
    np.testing.assert_allclose(tangent, np.vdot(slopes["means"], direction), rtol=1e-4)


@pytest.mark.slow
def test_gradient_of_vmap_is_the_sum_of_gradients(scene):
    """Weights tell the views apart: each one's gradient, and that of all, are those of
    the renderings one by one."""
    gaussians, cameras = scene[0], orbits(width=40, height=24)
    value = of_means(gaussians, capacity=4096)

    @jax.jit
    @jax.grad
    def together(means, weights):
        return weights @ jax.vmap(lambda c: value(means, c)[0])(cameras)

    views = (jax.tree.map(lambda a, i=i: np.asarray(a)[i], cameras) for i in range(3))
    alone = [gradient(rasterize, gaussians, v, capacity=4096)["means"] for v in views]
    for one, weights in zip(alone, np.eye(3, dtype=np.float32), strict=True):
        assert relative_error(together(gaussians.means, weights), one) < 1e-5
    got = together(gaussians.means, np.ones(3, np.float32))
    assert relative_error(got, np.sum(alone, axis=0)) < 1e-5


@pytest.mark.slow
def test_screen_offset_has_the_gradient_of_the_reference():
    gaussians, camera, zero = cloud(60, k=4), small_camera(), jnp.zeros((60, 2))

    def total(offset, function):
        drawn = function(
            gaussians, camera, background=jnp.ones(3), screen_offset=offset
        )
        return jnp.sum(drawn.rgb * jnp.linspace(0, 1, 40)[:, None])

    slope = jax.jit(jax.grad(total), static_argnums=1)
    got, want = (slope(zero, f) for f in (rasterize, rasterize_reference))
    assert np.linalg.norm(want) > 0.1
    assert relative_error(got, want) < 1e-5


@pytest.mark.slow
def test_gradient_at_scale():
    """A thousand splats and hundreds of tiles, several lists a group."""
    gaussians, camera = cloud(1000, k=4, scale=0.04), small_camera(width=96, height=72)
    want = gradient(rasterize_reference, gaussians, camera)
    got = gradient(rasterize, gaussians, camera)
    for name in (*LEARNT, "background"):
        assert relative_error(got[name], want[name]) < 1e-5, name
