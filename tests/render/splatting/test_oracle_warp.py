"""The kernels for NVIDIA GPUs against the dense reference, run block by block on a CPU.

Warp's cooperative blocks run the same program there as on a GPU, sums over the threads
of a tile included; how fast a GPU is with it, and whether its own compiler agrees, no
test here can say. That Warp compiles the kernels for GPUs is tested (NVRTC is in its
wheel), and that the whole gradient lowers for one.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from splat_scenes import (
    BACKGROUND,
    LEARNT,
    cloud,
    draw,
    gradient,
    orbits,
    relative_error,
    small_camera,
    value_and_gradient,
)
from test_rasterize import assert_same_pictures

from sdsjax.backend import Target, compiling_for
from sdsjax.render.splatting.rasterize import rasterize, rasterize_reference

pytestmark = pytest.mark.oracle
wp = pytest.importorskip("warp", reason="the extra `warp` is not installed")
from sdsjax.render.splatting.warp_composite import kernels_of  # noqa: E402
from sdsjax.render.splatting.warp_kernels import make_kernels  # noqa: E402

CASES = {
    "plain": ({}, {"k": 4}),
    "clamped and antialiased": (
        {"max_alpha": 0.7, "antialias": True},
        {"opacity": 6.0, "scale": 0.2},
    ),
    "opaque stack": ({}, {"opacity": 9.0, "scale": 0.3}),
    "tiles of 16": ({"tile_size": 16}, {}),
    "several slabs": ({"capacity": 24}, {}),
}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Kernels are compiled here, not read from what an earlier version left."""
    kept = wp.config.kernel_cache_dir
    wp.config.kernel_cache_dir = str(tmp_path_factory.mktemp("warp"))
    yield
    wp.config.kernel_cache_dir = kept


@pytest.mark.parametrize("case", CASES)
def test_pictures_and_gradient_are_the_references(case):
    settings, size = CASES[case]
    gaussians, camera = cloud(60, **size), small_camera()
    (_, got), slopes = value_and_gradient(
        rasterize, gaussians, camera, kernel="warp", **settings
    )
    (_, want), others = value_and_gradient(
        rasterize_reference, gaussians, camera, **settings
    )
    assert_same_pictures(got, want, 1e-5)
    if case == "several slabs":
        assert got.aux["n_slabs"] > 2
    for name in (*LEARNT, "background"):
        assert np.linalg.norm(others[name]) > 1e-3
        assert relative_error(slopes[name], others[name]) < tolerance(case, name), name


def tolerance(case, name):
    """What float32 leaves of a slope; opacities near 1, whose slope is what 1 - opacity
    lets through, keep a digit less (XLA's kernel: 1.4e-5)."""
    return 3e-5 if (case, name) == ("opaque stack", "opacity_logits") else 1e-5


def test_nothing_and_dead_splats_draw_the_background():
    gaussians = cloud(60)._replace(alive=jnp.zeros(60, bool))
    drawn = draw(gaussians, small_camera(), kernel="warp")
    np.testing.assert_array_equal(drawn.opacity, 0.0)
    np.testing.assert_allclose(drawn.rgb, np.broadcast_to(BACKGROUND, (24, 40, 3)))
    slopes = gradient(rasterize, gaussians, small_camera(), kernel="warp")
    assert not any(np.any(slopes[name]) for name in LEARNT)


def test_views_in_one_pass_are_the_views_one_by_one():
    gaussians, cameras = cloud(60), orbits(40, 24)

    def total(learnt, camera):
        drawn = rasterize(
            gaussians._replace(**learnt), camera, background=BACKGROUND, kernel="warp"
        )
        return jnp.sum(drawn.rgb**2) + jnp.sum(drawn.depth * drawn.opacity)

    learnt = {name: getattr(gaussians, name) for name in LEARNT}
    one = jax.jit(jax.value_and_grad(total))
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(total), in_axes=(None, 0)))(
        learnt, cameras
    )
    for i in range(3):
        value, slope = one(learnt, jax.tree.map(lambda a, i=i: a[i], cameras))
        np.testing.assert_allclose(values[i], value, rtol=1e-6)
        for name in LEARNT:
            assert relative_error(slopes[name][i], slope[name]) < 1e-5, name


def test_the_same_twice_to_the_bit():
    gaussians, camera = cloud(200, scale=0.15), small_camera()
    first, second = (
        value_and_gradient(rasterize, gaussians, camera, kernel="warp")
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_what_it_cannot_do_is_one_line():
    gaussians, camera = cloud(60), small_camera()
    with pytest.raises(ValueError, match=r"tile_size=64: .* choose 32 or less"):
        draw(gaussians, camera, kernel="warp", tile_size=64)
    with enable_x64(True), pytest.raises(ValueError, match=r"float32, not float64"):
        draw(cloud(60, dtype=jnp.float64), camera, kernel="warp")


@pytest.mark.parametrize("arch", [75, 80, 90])
def test_both_compile_for_a_gpu_that_is_not_here(arch, tmp_path):
    if sys.platform == "darwin":
        pytest.skip("Warp's wheel for macOS has no compiler for GPUs")
    forward, backward = make_kernels(7)
    for kernel in (forward, backward):
        kernel.module.options["block_dim"] = 64
        (path,) = wp.compile_aot_module(
            kernel.module, arch=arch, module_dir=tmp_path, use_ptx=True
        )
        text = path.read_text()
        assert f".target sm_{arch}" in text
        # a block's threads wait for one another where they add up, and only there
        assert ("bar.sync" in text) == (kernel is backward)


def test_the_gradient_lowers_for_a_gpu():
    gaussians, camera = cloud(60), small_camera()

    def total(means):
        drawn = rasterize(
            gaussians._replace(means=means),
            camera,
            background=jnp.ones(3),
            kernel="warp",
        )
        return drawn.rgb.sum()

    calls = [kernel.name for kernel in kernels_of(7, 64)]
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(call) for call in calls]
    with compiling_for(Target("cuda", (9, 0))):
        exported = jax.export.export(
            jax.jit(jax.grad(total)),
            platforms=("cuda",),
            disabled_checks=unchecked,
        )(gaussians.means)
    for call in calls:
        assert f"@{call}(" in exported.mlir_module()
