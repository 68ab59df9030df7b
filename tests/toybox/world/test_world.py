"""The world: pictures match captions, cameras match words, tracing matches oracles."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jitted import orbit_camera

from sdsjax.cameras import pixel_rays
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
    FOV_DEG,
    FRONT,
    LEFT,
    OVERHEAD,
    RIGHT,
    VIEW_WORDS,
    draw_orbit,
    heldout_orbits,
    view_index,
)

SIZE = 32  # of the squares' sides: one tile of the renderer
WIDTH, HEIGHT = 48, 40  # of the wide pictures: two tiles by two
MIDDLE = np.s_[4 : 4 + SIZE, 8 : 8 + SIZE]  # what a square shows of them
CHROMATIC = [name for name in COLORS if name != "white"]
GREY = (0.5, 0.5, 0.5)
_render = jax.jit(render, static_argnames="supersample")
_rays, _sdf, _normals = jax.jit(pixel_rays), jax.jit(sdf), jax.jit(surface_normals)
_view_index, _compose = jax.jit(view_index), jax.jit(compose)
# Squares of the batch after those of every kind: two that are drawn alone as well, and
# the roof of the house seen from near, beyond which little of its walls shows.
TRUCK = SceneSpec("truck", "green"), CANONICAL_ORBITS[LEFT], FOV_DEG
ROBOT = SceneSpec("robot", "pink"), (20.0, 10.0), FOV_DEG
ROOF = SceneSpec("house", "red"), CANONICAL_ORBITS[OVERHEAD], FOV_DEG / 2


def _wide_camera(azimuth, elevation):
    """The camera of a wide picture, whose middle is the square from there."""
    square = orbit_camera(azimuth, elevation, 3.1, width=SIZE, height=SIZE)
    middle = np.float32([WIDTH / 2, HEIGHT / 2])
    return replace(square, principal=middle, width=WIDTH, height=HEIGHT)


def _wide(spec, camera, colors=(GREY, GREY), background=GREY):
    """The true `Rendering` of a spec in a wide picture, one program for all tests."""
    shown = [np.asarray(color, np.float32) for color in (*colors, background)]
    scene = build_scene(spec)
    return jax.device_get(_render(scene, camera, *shown, supersample=1))


@pytest.fixture(scope="module")
def squares():
    """Layers of every kind from the five canonical orbits, of TRUCK, ROBOT and ROOF."""
    whole = [(SceneSpec(k, "red"), o, FOV_DEG) for k in KINDS for o in CANONICAL_ORBITS]
    specs, orbits, fields = zip(*whole, TRUCK, ROBOT, ROOF)
    scenes = stack_scenes([build_scene(spec) for spec in specs])

    @jax.jit
    @jax.vmap
    def looking(orbit, fov):
        return orbit_camera(*orbit, 3.1, fov=fov, width=SIZE, height=SIZE)

    cameras = looking(np.float32(orbits), np.float32(fields))
    layers = jax.device_get(render_batch(scenes, cameras, supersample=1))
    return [type(layers)(*row) for row in zip(*layers, strict=True)]


@pytest.fixture(scope="module")
def views(squares):
    """Layers [kind][view] of every kind from the five canonical orbits."""
    return {kind: squares[5 * k : 5 * k + 5] for k, kind in enumerate(KINDS)}


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
        rgb = np.asarray(_compose(layers, COLORS[name], GREY, GREY))
        covered = layers.opacity == 1
        votes = {c: (_like(rgb, COLORS[c]) & covered).sum() for c in CHROMATIC}
        assert max(votes, key=votes.get) == name, (kind, name, votes)
        assert votes[name] > 0.15 * covered.sum()


def test_no_two_kinds_look_alike(views):
    def signature(kind):
        shown = [_compose(v, COLORS["red"], GREY, GREY) for v in views[kind][:4]]
        return np.stack(shown)

    shown = {kind: signature(kind) for kind in KINDS}
    for a in KINDS:
        for b in KINDS:
            if a < b:
                assert np.abs(shown[a] - shown[b]).mean() > 0.02, (a, b)


@pytest.mark.parametrize("kind", DIRECTED_KINDS)
def test_directed_kinds_tell_their_four_sides_apart(views, kind):
    pictures = [
        np.asarray(_compose(v, COLORS["cyan"], GREY, GREY)) for v in views[kind]
    ]
    for a in range(5):
        for b in range(a):
            apart = np.abs(pictures[a] - pictures[b]).max(axis=-1)
            # more than 1% of the picture differs plainly, shading alone does not
            assert (apart > 0.25).mean() > 0.01, (kind, VIEW_WORDS[a], VIEW_WORDS[b])


def test_the_snowmans_nose_shows_from_the_front_only(views):
    def nose(view):
        rgb = _compose(views["snowman"][view], COLORS["blue"], GREY, GREY)
        return int(_like(np.asarray(rgb), PAINTS["carrot"]).sum())

    assert nose(FRONT) >= 2
    assert nose(LEFT) >= 2
    assert nose(RIGHT) >= 2
    assert nose(BACK) == 0


def test_left_and_right_are_the_objects_own(views):
    columns = np.arange(SIZE) - (SIZE - 1) / 2

    def balance(mask):
        return float((mask * columns).sum() / mask.sum())

    def extremes(mask):
        used = np.flatnonzero(mask.max(axis=0))
        return used[0] - SIZE / 2, used[-1] - SIZE / 2

    # the mug is centred by its bounding box: the thin handle leaves the weight opposite
    assert balance(views["mug"][FRONT].opacity) < -SIZE / 48
    assert balance(views["mug"][BACK].opacity) > SIZE / 48
    # seen from its left a duck looks to the left of the picture
    rgb = _compose(views["duck"][LEFT], COLORS["blue"], GREY, GREY)
    assert balance(_like(np.asarray(rgb), PAINTS["carrot"])) < -SIZE / 6
    rgb = _compose(views["duck"][RIGHT], COLORS["blue"], GREY, GREY)
    assert balance(_like(np.asarray(rgb), PAINTS["carrot"])) > SIZE / 6
    # overhead, the front points down the picture
    rgb = _compose(views["duck"][OVERHEAD], COLORS["blue"], GREY, GREY)
    rows = np.nonzero(_like(np.asarray(rgb), PAINTS["carrot"]))[0]
    assert rows.mean() > SIZE / 2 + SIZE / 6
    low, high = extremes(views["ball"][FRONT].opacity)
    assert abs(low + high + 1) <= 1


def test_depth_and_normals_of_a_ball_are_analytic():
    camera = jax.device_get(_wide_camera(35.0, 20.0))
    picture = _wide(SceneSpec("ball", "red"), camera)
    origins, directions = jax.device_get(_rays(camera))
    along = -np.sum(origins * directions, axis=-1)
    miss = np.sum(origins * origins, axis=-1) - along**2
    hit = miss < 0.97 * EXTENT**2
    t = along - np.sqrt(np.maximum(EXTENT**2 - miss, 0))
    surface = origins + t[..., None] * directions
    rotation, moved = np.split(camera.world_to_camera[:3], [3], axis=1)
    depth = surface @ rotation[2] + moved[2]
    np.testing.assert_allclose(picture.depth[hit], depth[hit], atol=5e-4)
    np.testing.assert_allclose(picture.normal[hit], (surface / EXTENT)[hit], atol=5e-3)
    assert (picture.opacity == (miss < EXTENT**2)).mean() > 0.99


def test_layers_agree_with_dense_marching_and_direct_shading():
    """Oracle: walk every ray in 1 500 even steps, shade the first point inside."""
    spec = SceneSpec("teapot", "cyan", "table", "orange")
    scene, camera = build_scene(spec), _wide_camera(-60.0, 25.0)
    color_a, color_b = (np.asarray(COLORS[c]) for c in (spec.color, spec.base_color))
    background = np.asarray([0.2, 0.4, 0.9])
    picture = _wide(spec, camera, (color_a, color_b), background)

    # every other pixel of the square in the middle
    rays = jax.device_get(_rays(camera))
    origins, directions = (a[MIDDLE][::2, ::2].reshape(-1, 3) for a in rays)
    steps = np.linspace(2.0, 4.2, 1500, dtype=np.float32)
    points = origins[:, None] + steps[:, None] * directions[:, None]
    distance, material = jax.device_get(_sdf(scene, points))
    inside = distance < 0
    first, hit = inside.argmax(axis=1), inside.any(axis=1)
    of_first = np.arange(len(first)), first
    surface, material = points[of_first], material[of_first]
    normal = np.asarray(_normals(scene, surface))
    palette = np.stack([color_a, color_b, *PAINTS.values()])
    light, sky = np.array([0.10, 0.60, 0.79]), np.array([0.47, 0.87, 0.12])
    shade = 0.56 + 0.17 * normal @ sky + 0.27 * np.maximum(normal @ light, 0)
    direct = np.where(hit[:, None], shade[:, None] * palette[material], background)
    rgb = picture.rgb[MIDDLE][::2, ::2]
    apart = np.abs(direct.reshape(rgb.shape) - rgb).max(axis=-1)
    assert (apart < 0.02).mean() > 0.96  # the rest are rays along an edge
    assert hit.mean() > 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_normals_are_unit_and_light_is_in_range(views, squares, kind):
    for view, layers in enumerate(views[kind]):
        norm = np.linalg.norm(layers.normal, axis=-1)
        covered = layers.opacity > 0
        np.testing.assert_allclose(norm[covered], 1, atol=1e-4)
        assert (norm[~covered] == 0).all()
        assert (layers.depth[~covered] == 0).all()
        assert (np.abs(layers.depth[covered] - 3.1) < 1).all()
        white = _compose(layers, (1.0,) * 3, (1.0,) * 3, (0.0,) * 3)
        assert np.asarray(white).max() <= 1.001
        near = squares[-1] if (kind, view) == ("house", OVERHEAD) else layers
        own = near.primary[near.primary > 0.99 * near.opacity * 0.39]
        assert own.size


@pytest.mark.parametrize("kind", ["teapot", "house", "sailboat", "mug"])
def test_normals_face_the_camera(kind):
    camera = _wide_camera(50.0, 25.0)
    camera = replace(
        camera, focal=1.4 * np.asarray(camera.focal)
    )  # so that it fills the picture
    layers = _wide(SceneSpec(kind, "red"), camera).aux
    facing = np.sum(layers.normal * np.asarray(_rays(camera)[1]), axis=-1)
    assert (facing[layers.opacity > 0] < 0.1).mean() > 0.99


def test_rendering_is_deterministic_and_a_batch_is_its_members(squares):
    spec, orbit, _ = TRUCK
    square = orbit_camera(*orbit, 3.1, width=SIZE, height=SIZE)
    camera = replace(square, width=WIDTH, height=HEIGHT)  # the square, its first tile
    first, again = (_wide(spec, camera).aux for _ in range(2))
    for a, b, c in zip(first, again, squares[-3], strict=True):
        assert (a == b).all()
        np.testing.assert_allclose(a[:SIZE, :SIZE], c, atol=1e-5)


def test_a_wide_picture_is_a_crop_of_the_square_one(squares):
    """The other way round: a square is the middle of a picture of more tiles."""
    spec, orbit, _ = ROBOT
    strip = _wide(spec, _wide_camera(*orbit)).aux
    for part, whole in zip(squares[-2], strip, strict=True):
        np.testing.assert_allclose(part, whole[MIDDLE], atol=2e-2)


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
    camera = _wide_camera(0.0, 0.0)
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
        main(["sheet", "--out", str(out), "--kinds", "ball", "mug", "--pairs", "1"])
        == 0
    )
    pixels = np.asarray(Image.open(out))
    assert pixels.shape[1] == 10 * 128
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
