"""The tiled rasteriser against the dense reference and against closed forms."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from precision import enable_x64
from splat_scenes import (
    BACKGROUND,
    LEARNT,
    PICTURES,
    cloud,
    draw,
    orbits,
    small_camera,
    value_and_gradient,
)

from sdsjax.backend import Target, compiling_for
from sdsjax.render.spherical_harmonics import coefficient_of_colour
from sdsjax.render.splatting.rasterize import (
    default_tile_size,
    rasterize,
    rasterize_reference,
)
from sdsjax.representations.gaussians import gaussians as gaussians_of


def few(**fields):
    """Gaussians of these rows among dead ones, 60 in all: one program serves any."""
    gaussians, count = cloud(60), len(fields["means"])
    for name, rows in fields.items():
        getattr(gaussians, name)[:count] = rows
    return gaussians._replace(alive=np.arange(60) < count)


def as_summed(drawn, name):
    """A picture before the opacity divides it: where little is met, that division lifts
    rounding without bound."""
    picture = getattr(drawn, name)
    if name == "depth":
        return picture * drawn.opacity
    return picture * drawn.opacity[..., None] if name == "normal" else picture


def assert_same_pictures(got, want, tolerance):
    for name in PICTURES:
        pair = (as_summed(drawn, name) for drawn in (got, want))
        np.testing.assert_allclose(*pair, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "size"),
    [({}, {}), ({"antialias": True, "max_alpha": 0.8}, {"k": 9, "opacity": 4.0})],
)
def test_pictures_equal_the_reference(settings, size):
    gaussians, camera = cloud(60, **size), small_camera()
    want = draw(gaussians, camera, rasterize_reference, **settings)
    assert float(want.opacity.max()) > 0.9
    assert_same_pictures(draw(gaussians, camera, **settings), want, 1e-5)


@pytest.mark.slow
def test_pictures_equal_the_reference_in_float64():
    with enable_x64(True):
        gaussians, camera = cloud(60, k=16, dtype=jnp.float64), small_camera()
        want = draw(gaussians, camera, rasterize_reference)
        got = draw(gaussians, camera, capacity=70)
        assert got.rgb.dtype == jnp.float64
        assert_same_pictures(got, want, 1e-13)


def test_opaque_stack_stops_where_the_reference_stops():
    """Deep behind opaque splats nothing is added: T stays above 1e-4."""
    gaussians = cloud(60, opacity=9.0, scale=0.3)
    camera = small_camera()
    got, want = (draw(gaussians, camera, f) for f in (rasterize, rasterize_reference))
    assert_same_pictures(got, want, 1e-5)
    assert float(got.opacity.max()) < 1 - 1e-4 + 1e-6


def test_the_stop_comes_before_a_ten_thousandth_is_left():
    """Splats of 1/2 all over the picture: after 13 of them 2^-13 = 1.2e-4 is left, and
    the 14th would leave 6e-5."""
    wide = cloud(60)._replace(
        log_scales=np.full((60, 3), 6.0, np.float32),
        opacity_logits=np.zeros(60, np.float32),
    )
    for function in (rasterize, rasterize_reference):
        got = draw(wide, small_camera(), function)
        np.testing.assert_allclose(got.opacity, 1 - 0.5**13, atol=1e-5)


def test_a_buffer_far_too_small_changes_nothing():
    gaussians, camera = cloud(60), small_camera()
    total_sum, cut = draw(gaussians, camera), draw(gaussians, camera, capacity=16)
    assert int(total_sum.aux["n_slabs"]) == 1
    assert int(cut.aux["n_slabs"]) >= 8
    assert int(cut.aux["n_isects"]) == int(total_sum.aux["n_isects"])
    assert_same_pictures(cut, total_sum, 2e-6)


@pytest.mark.parametrize("tile_size", [pytest.param(4, marks=pytest.mark.slow), 16])
def test_tile_size_changes_nothing(tile_size):
    gaussians, camera = cloud(60), small_camera()
    assert default_tile_size(camera.width, camera.height) == 8
    got, want = draw(gaussians, camera, tile_size=tile_size), draw(gaussians, camera)
    assert_same_pictures(got, want, 2e-6)


def test_one_isotropic_gaussian_is_the_formula():
    scale, opacity, rgb = 0.2, 0.7, np.array([0.9, 0.3, 0.1])
    camera = small_camera(0.0, 0.0, distance=3.0)
    one = few(
        means=np.zeros((1, 3)),
        log_scales=np.log(scale),
        quats=(0.3, -0.2, 0.9, 0.4),
        opacity_logits=np.log(opacity / (1 - opacity)),
        sh=coefficient_of_colour(rgb),
    )
    got = draw(one, camera)
    variance = (camera.focal[0] * scale / 3.0) ** 2 + 0.3
    x, y = np.meshgrid(np.arange(40) + 0.5 - 20, np.arange(24) + 0.5 - 12)
    alpha = opacity * np.exp(-0.5 * (x**2 + y**2) / variance)
    alpha = np.where(alpha >= 1 / 255, alpha, 0)[..., None]
    want = alpha * rgb + (1 - alpha) * np.array(BACKGROUND)
    np.testing.assert_allclose(got.rgb, want, atol=2e-6)
    np.testing.assert_allclose(got.opacity, alpha[..., 0], atol=2e-6)
    np.testing.assert_allclose(
        got.depth, np.where(alpha[..., 0] > 0, 3.0, 0), atol=1e-5
    )
    length = np.linalg.norm(got.normal, axis=-1)
    np.testing.assert_allclose(length, alpha[..., 0] > 0, atol=1e-5)


def test_two_views_of_a_pair_hide_one_another():
    """Front (+z) red, back (-z) green: azimuth 0 sees red, 180 green, 90 both."""
    pair = few(
        means=np.array([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]]),
        log_scales=np.log(0.15),
        opacity_logits=9.0,
        sh=coefficient_of_colour(np.array([[1.0, 0, 0], [0, 1.0, 0]]))[:, None],
    )
    front, back, side = (
        np.asarray(draw(pair, small_camera(azimuth, 0.0)).rgb[12])
        for azimuth in (0.0, 180.0, 90.0)
    )
    assert front[20, 0] > 0.9 > 0.1 > front[20, 1]
    assert back[20, 1] > 0.9 > 0.1 > back[20, 0]
    # From +x the object's front points to the left of the picture.
    assert side[14, 0] > 0.9 > 0.1 > side[14, 1]
    assert side[25, 1] > 0.9 > 0.1 > side[25, 0]


@pytest.mark.slow
def test_vmap_is_a_loop_and_views_share_a_pass():
    gaussians = cloud(60)
    cameras = orbits(width=40, height=24)
    backgrounds = np.float32(np.random.default_rng(1).random((3, 3)))
    together = jax.jit(
        jax.vmap(lambda c, b: rasterize(gaussians, c, background=b, capacity=16))
    )(cameras, backgrounds)
    together, cameras = jax.device_get((together, cameras))
    for i in range(3):
        camera = jax.tree.map(lambda a, i=i: a[i], cameras)
        one = draw(gaussians, camera, background=backgrounds[i], capacity=16)
        assert_same_pictures(jax.tree.map(lambda a, i=i: a[i], together), one, 2e-6)
        assert int(together.aux["n_slabs"][i]) == int(one.aux["n_slabs"])


def test_one_trace_serves_every_camera():
    traces = []

    @jax.jit
    def step(gaussians, camera):
        traces.append(None)
        return rasterize(gaussians, camera, background=BACKGROUND).rgb

    scenes = [(cloud(60, seed=s), small_camera(30.0 * s)) for s in range(3)]
    for scene in scenes:
        step.eval_shape(*scene)
    assert len(traces) == 1
    pictures = [draw(*scene).rgb for scene in scenes]
    assert np.abs(np.subtract(*pictures[:2])).max() > 0.1


DEGENERATE = {
    "points": {"log_scales": -200.0},
    "giants": {"log_scales": 200.0},
    "needles": {"log_scales": [-30.0, -30.0, 3.0]},
    "behind": {"means": [0.0, 0.0, 9.0]},
    "at the eye": {"means": [0.0, 0.0, 3.1]},
    "opaque": {"opacity_logits": 1e30},
    "transparent": {"opacity_logits": -1e30},
    "no rotation": {"quats": 0.0},
    "none alive": {"alive": False},
    "all at one place": {"means": 0.0},
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_input_stays_finite(case):
    gaussians, camera = cloud(60), small_camera(0.0, 0.0)
    for name, value in DEGENERATE[case].items():
        getattr(gaussians, name)[:] = value
    (_, drawn), slopes = value_and_gradient(rasterize, gaussians, camera)
    for name in PICTURES:
        assert np.isfinite(getattr(drawn, name)).all(), name
    for name in LEARNT:
        assert np.isfinite(slopes[name]).all(), name
    if case in ("behind", "transparent", "none alive"):
        np.testing.assert_allclose(drawn.rgb - np.float32(BACKGROUND), 0, atol=1e-7)
        assert float(drawn.opacity.max()) == 0
        assert not any(slopes[name].any() for name in LEARNT)


def test_dead_rows_are_as_if_absent():
    gaussians, camera = cloud(60), small_camera()
    alive = np.arange(60) % 3 != 0
    living = jax.tree.map(lambda a: a[alive], gaussians)
    # of this capacity there is a program of 60 rows
    dead = draw(gaussians._replace(alive=alive), camera, capacity=16)
    assert_same_pictures(dead, draw(living, camera, capacity=16), 1e-6)


@pytest.mark.slow
def test_an_accelerators_lockstep_draws_the_same():
    gaussians, camera = cloud(60, scale=0.15), small_camera()
    (_, want), slopes = value_and_gradient(rasterize, gaussians, camera)
    with compiling_for(Target("cuda", (9, 0))):  # another capacity: compiled anew
        (_, got), others = value_and_gradient(rasterize, gaussians, camera, capacity=42)
    assert_same_pictures(got, want, 2e-6)
    for name in (*LEARNT, "background"):
        scale = np.linalg.norm(slopes[name])
        assert np.linalg.norm(others[name] - slopes[name]) < 1e-5 * scale, name


def test_unknown_kernel_is_named():
    with pytest.raises(ValueError, match=r"'cuda'.*allowed are xla"):
        rasterize(cloud(2), small_camera(), background=BACKGROUND, kernel="cuda")


def draw_by_warp(**settings):
    rasterize(
        cloud(2), small_camera(), background=BACKGROUND, kernel="warp", **settings
    )


def test_a_kernel_that_is_not_there_is_said_in_one_line(monkeypatch):
    name = "sdsjax.render.splatting.warp_composite"
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("sdsjax.render.splatting.warp_composite", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'sdsjax\[warp\]'.*kernel='xla'"):
        draw_by_warp()
    with pytest.raises(ValueError, match=r"kernel='warp' needs NVIDIA Warp"):
        gaussians_of(count=10, kernel="warp")
    with pytest.raises(ValueError, match=r"no forward differentiation"):
        draw_by_warp(differentiation="forward")
    with (
        compiling_for(Target("tpu")),
        pytest.raises(ValueError, match=r"NVIDIA GPUs .* not for tpu: .* kernel='xla'"),
    ):
        draw_by_warp()


def test_unknown_differentiation_is_named():
    with pytest.raises(ValueError, match=r"'reverse' .* 'forward'"):
        rasterize(
            cloud(2), small_camera(), background=BACKGROUND, differentiation="both"
        )
