"""The world: pictures match captions, cameras match words, tracing matches oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera

from sdsjax.cameras import camera_position, pixel_rays
from sdsjax.toybox.__main__ import main
from sdsjax.toybox.world.objects import BASES, COLORS, DIRECTED_KINDS, KINDS, PAINTS
from sdsjax.toybox.world.renderer import (
    compose,
    render,
    render_batch,
    render_layers,
    sdf,
    surface_normals,
)
from sdsjax.toybox.world.scene import (
    EXTENT,
    PADDED,
    SceneSpec,
    build_scene,
    stack_scenes,
)
from sdsjax.toybox.world.sheet import render_specs
from sdsjax.toybox.world.views import (
    BACK,
    CANONICAL_ORBITS,
    FRONT,
    LEFT,
    OVERHEAD,
    RIGHT,
    VIEW_WORDS,
    draw_orbit,
    heldout_orbits,
    view_index,
)

SIZE, WIDE = 48, 32  # of a side; of the lower side of pictures that are no squares
CHROMATIC = [name for name in COLORS if name != "white"]
GREY = (0.5, 0.5, 0.5)
_layers = jax.jit(render_layers, static_argnames="supersample")
_render = jax.jit(render, static_argnames="supersample")
_rays, _sdf, _normals = jax.jit(pixel_rays), jax.jit(sdf), jax.jit(surface_normals)
_view_index = jax.jit(view_index)


@pytest.fixture(scope="module")
def views():
    """Layers [kind][view] of every kind from the five canonical orbits."""
    scenes = stack_scenes(
        [build_scene(SceneSpec(k, "red")) for k in KINDS for _ in "12345"]
    )
    orbits = np.asarray([o for _ in KINDS for o in CANONICAL_ORBITS], np.float32)
    looking = jax.vmap(lambda a, e: orbit_camera(a, e, 3.1, width=SIZE, height=SIZE))
    cameras = jax.jit(looking)(*orbits.T)
    layers = jax.device_get(render_batch(scenes, cameras, supersample=1))
    return {
        kind: [jax.tree.map(lambda x, i=5 * k + v: x[i], layers) for v in range(5)]
        for k, kind in enumerate(KINDS)
    }


def _like(rgb, color):
    """Pixels [h, w] whose hue is that of a colour, whatever the shade."""
    color = np.asarray(color)
    norm = np.linalg.norm(rgb, axis=-1) * np.linalg.norm(color)
    return rgb @ color > 0.985 * np.maximum(norm, 1e-6)


def test_the_world_is_as_large_as_promised():
    assert len(KINDS) >= 28
    assert len(DIRECTED_KINDS) >= 16
    assert len(COLORS) >= 9
    assert len(VIEW_WORDS) == 5


def test_every_scene_fits_the_unit_ball_and_fills_it():
    directions = np.random.default_rng(0).normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    shell = jax.jit(lambda scene: sdf(scene, 0.94 * directions)[0].min())
    for kind in KINDS:
        for base in (None, *BASES):
            scene = build_scene(SceneSpec(kind, "red", base, "blue"))
            assert scene.count <= PADDED
            assert 0 < shell(scene) < 0.2, (kind, base)
    assert 0.75 <= EXTENT <= 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_whole_and_inside_the_picture(views, kind):
    for layers in views[kind]:
        mask = layers.opacity
        assert 0.02 < mask.mean() < 0.75
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.max() == 0
        assert mask.min() == 0
        assert mask.max() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_dominant_hue_is_the_named_one(views, kind):
    for i, name in enumerate(CHROMATIC):
        layers = views[kind][(FRONT, LEFT, BACK)[i % 3]]
        rgb = np.asarray(compose(layers, COLORS[name], GREY, GREY))
        covered = layers.opacity == 1
        votes = {c: (_like(rgb, COLORS[c]) & covered).sum() for c in CHROMATIC}
        assert max(votes, key=votes.get) == name, (kind, name, votes)
        assert votes[name] > 0.15 * covered.sum()


def test_no_two_kinds_look_alike(views):
    def signature(kind):
        shown = [compose(v, COLORS["red"], GREY, GREY) for v in views[kind][:4]]
        return np.stack(shown)

    shown = {kind: signature(kind) for kind in KINDS}
    for a in KINDS:
        for b in KINDS:
            if a < b:
                assert np.abs(shown[a] - shown[b]).mean() > 0.02, (a, b)


@pytest.mark.parametrize("kind", DIRECTED_KINDS)
def test_directed_kinds_tell_their_four_sides_apart(views, kind):
    pictures = [np.asarray(compose(v, COLORS["cyan"], GREY, GREY)) for v in views[kind]]
    for a in range(5):
        for b in range(a):
            apart = np.abs(pictures[a] - pictures[b]).max(axis=-1)
            # more than 1% of the picture differs plainly, shading alone does not
            assert (apart > 0.25).mean() > 0.01, (kind, VIEW_WORDS[a], VIEW_WORDS[b])


def test_the_snowmans_nose_shows_from_the_front_only(views):
    def nose(view):
        rgb = compose(views["snowman"][view], COLORS["blue"], GREY, GREY)
        return int(_like(np.asarray(rgb), PAINTS["carrot"]).sum())

    assert nose(FRONT) >= 4
    assert nose(LEFT) >= 4
    assert nose(RIGHT) >= 4
    assert nose(BACK) == 0


def test_left_and_right_are_the_objects_own(views):
    columns = np.arange(SIZE) - (SIZE - 1) / 2

    def balance(mask):
        return float((mask * columns).sum() / mask.sum())

    def extremes(mask):
        used = np.flatnonzero(mask.max(axis=0))
        return used[0] - SIZE / 2, used[-1] - SIZE / 2

    # the mug is centred by its bounding box: the thin handle leaves the weight opposite
    assert balance(views["mug"][FRONT].opacity) < -1
    assert balance(views["mug"][BACK].opacity) > 1
    # seen from its left a duck looks to the left of the picture
    rgb = compose(views["duck"][LEFT], COLORS["blue"], GREY, GREY)
    assert balance(_like(np.asarray(rgb), PAINTS["carrot"])) < -8
    rgb = compose(views["duck"][RIGHT], COLORS["blue"], GREY, GREY)
    assert balance(_like(np.asarray(rgb), PAINTS["carrot"])) > 8
    # overhead, the front points down the picture
    rgb = compose(views["duck"][OVERHEAD], COLORS["blue"], GREY, GREY)
    rows = np.nonzero(_like(np.asarray(rgb), PAINTS["carrot"]))[0]
    assert rows.mean() > SIZE / 2 + 8
    low, high = extremes(views["ball"][FRONT].opacity)
    assert abs(low + high + 1) <= 1


def test_depth_and_normals_of_a_ball_are_analytic():
    camera = orbit_camera(35.0, 20.0, 3.1, width=SIZE, height=SIZE)
    picture = _layers(build_scene(SceneSpec("ball", "red")), camera, supersample=1)
    origins, directions = jax.device_get(_rays(camera))
    along = -np.sum(origins * directions, axis=-1)
    miss = np.sum(origins * origins, axis=-1) - along**2
    hit = miss < 0.97 * EXTENT**2
    t = along - np.sqrt(np.maximum(EXTENT**2 - miss, 0))
    surface = origins + t[..., None] * directions
    forward = np.asarray(camera.world_to_camera)[2, :3]
    depth = (surface - np.asarray(camera_position(camera))) @ forward
    picture = jax.device_get(picture)
    np.testing.assert_allclose(picture.depth[hit], depth[hit], atol=5e-4)
    np.testing.assert_allclose(picture.normal[hit], (surface / EXTENT)[hit], atol=5e-3)
    assert (picture.opacity == (miss < EXTENT**2)).mean() > 0.99


def test_layers_agree_with_dense_marching_and_direct_shading():
    """Oracle: walk every ray in 1 500 even steps, shade the first point inside."""
    spec = SceneSpec("teapot", "cyan", "table", "orange")
    scene = jax.tree.map(jnp.asarray, build_scene(spec))
    camera = orbit_camera(-60.0, 25.0, 3.1, width=SIZE, height=WIDE)
    color_a, color_b = (np.asarray(COLORS[c]) for c in (spec.color, spec.base_color))
    background = np.asarray([0.2, 0.4, 0.9])
    picture = _render(scene, camera, color_a, color_b, background, supersample=1)

    # every other pixel of the square in the middle
    middle = np.s_[::2, 8:40:2]
    origins, directions = (np.reshape(a[middle], (-1, 3)) for a in _rays(camera))
    steps = np.linspace(2.0, 4.2, 1500, dtype=np.float32)
    points = origins[:, None] + steps[:, None] * directions[:, None]
    inside = np.asarray(_sdf(scene, points)[0]) < 0
    first, hit = inside.argmax(axis=1), inside.any(axis=1)
    surface = points[np.arange(len(first)), first]
    normal = np.asarray(_normals(scene, surface))
    material = np.asarray(_sdf(scene, surface)[1])
    palette = np.stack([color_a, color_b, *PAINTS.values()])
    light, sky = np.array([0.10, 0.60, 0.79]), np.array([0.47, 0.87, 0.12])
    shade = 0.56 + 0.17 * normal @ sky + 0.27 * np.maximum(normal @ light, 0)
    direct = np.where(hit[:, None], shade[:, None] * palette[material], background)
    rgb = np.asarray(picture.rgb)[middle]
    apart = np.abs(direct.reshape(rgb.shape) - rgb).max(axis=-1)
    assert (apart < 0.02).mean() > 0.96  # the rest are rays along an edge
    assert hit.mean() > 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_normals_are_unit_and_light_is_in_range(views, kind):
    for layers in views[kind]:
        norm = np.linalg.norm(layers.normal, axis=-1)
        covered = layers.opacity > 0
        np.testing.assert_allclose(norm[covered], 1, atol=1e-4)
        assert (norm[~covered] == 0).all()
        assert (layers.depth[~covered] == 0).all()
        assert (np.abs(layers.depth[covered] - 3.1) < 1).all()
        white = compose(layers, (1, 1, 1), (1, 1, 1), (0, 0, 0))
        assert white.max() <= 1.001
        own = layers.primary[layers.primary > 0.99 * layers.opacity * 0.39]
        assert own.size


@pytest.mark.parametrize("kind", ["teapot", "house", "sailboat", "mug"])
def test_normals_face_the_camera(kind):
    camera = orbit_camera(50.0, 25.0, 3.1, width=SIZE, height=SIZE)
    layers = _layers(build_scene(SceneSpec(kind, "red")), camera, supersample=1)
    facing = np.sum(np.asarray(layers.normal) * _rays(camera)[1], axis=-1)
    assert (facing[np.asarray(layers.opacity) > 0] < 0.1).mean() > 0.99


def test_rendering_is_deterministic_and_a_batch_is_its_members(views):
    camera = orbit_camera(*CANONICAL_ORBITS[LEFT], 3.1, width=SIZE, height=SIZE)
    scene = build_scene(SceneSpec("truck", "green"))
    first, again = (_layers(scene, camera, supersample=1) for _ in range(2))
    for a, b, c in zip(first, again, views["truck"][LEFT], strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()
        np.testing.assert_allclose(a, c, atol=1e-5)


def test_a_wide_picture_is_a_crop_of_the_square_one():
    scene = build_scene(SceneSpec("robot", "pink"))
    square = orbit_camera(20.0, 10.0, width=SIZE, height=SIZE)
    square = _layers(scene, square, supersample=1)
    wide = orbit_camera(20.0, 10.0, width=SIZE, height=WIDE)
    scale = SIZE / WIDE  # orbit_camera's field of view is vertical
    wide = type(wide)(
        wide.world_to_camera, wide.focal * scale, wide.principal, SIZE, WIDE
    )
    grey = np.asarray(GREY)
    strip = _render(scene, wide, grey, grey, grey, supersample=1).aux
    for whole, part in zip(square, strip, strict=True):
        np.testing.assert_allclose(whole[8:40], part, atol=2e-2)


def test_view_index_follows_the_words():
    cases = [(0, FRONT), (44, FRONT), (-44, FRONT), (46, LEFT), (90, LEFT), (134, LEFT)]
    cases += [(-90, RIGHT), (270, RIGHT), (136, BACK), (180, BACK), (-136, BACK)]
    azimuth, expected = np.asarray(cases).T
    found = _view_index(azimuth.astype(np.float32), 20.0)
    assert (np.asarray(found) == expected).all()
    assert (np.asarray(_view_index(azimuth.astype(np.float32), 61.0)) == OVERHEAD).all()
    plainest = _view_index(*np.asarray(CANONICAL_ORBITS, np.float32).T)
    assert plainest.tolist() == list(range(len(VIEW_WORDS)))


def test_training_orbits_cover_the_sphere_and_repeat_with_their_key():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(jax.vmap(draw_orbit))
    azimuth, elevation, distance = jax.device_get(draw(keys))
    again, *_ = draw(keys)
    assert (azimuth == np.asarray(again)).all()
    share = np.bincount(_view_index(azimuth, elevation), minlength=5) / 4000
    np.testing.assert_allclose(share, [0.225] * 4 + [0.1], atol=0.03)
    assert (elevation >= -10).all()
    assert (elevation <= 85).all()
    assert (distance >= 2.9).all()
    assert (distance <= 3.3).all()
    held_azimuth, held_elevation, _ = np.asarray(heldout_orbits(), np.float32).T
    words = _view_index(held_azimuth, held_elevation)
    assert set(words.tolist()) == {FRONT, LEFT, RIGHT, BACK}
    assert len(set(heldout_orbits())) == len(heldout_orbits())


def test_a_colour_changes_nothing_but_its_own_part():
    spec = SceneSpec("ball", "red", "cube", "blue")
    red, green = render_specs([spec, spec._replace(color="green")], [(30.0, 20.0)] * 2)
    changed = np.abs(red - green).max(axis=-1) > 1e-3
    rows = np.flatnonzero(changed.any(axis=1))
    assert rows.max() < 38  # the ball is above, the cube below
    assert rows.min() < 12


def test_bad_input_is_named(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"unknown toybox kind 'dragon'.*airplane"):
        build_scene(SceneSpec("dragon", "red"))
    camera = orbit_camera(0.0, 0.0, width=16, height=16)
    with pytest.raises(ValueError, match="supersample is 3; allowed: 1, 2, 4, 8"):
        render_layers(build_scene(SceneSpec("ball", "red")), camera, supersample=3)
    out = tmp_path / "sheet.png"
    assert main(["sheet", "--out", str(out), "--kinds", "dragon"]) == 2
    assert "unknown kind 'dragon'" in capsys.readouterr().err
    assert not out.exists()


def test_the_contact_sheet_is_drawn(tmp_path):
    from PIL import Image

    out = tmp_path / "sheet.png"
    assert (
        main(["sheet", "--out", str(out), "--kinds", "cat", "mug", "--pairs", "1"]) == 0
    )
    pixels = np.asarray(Image.open(out))
    assert pixels.shape[1] == 10 * 128
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
