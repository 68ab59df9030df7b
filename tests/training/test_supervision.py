"""Penalties: the depth loss against least squares, references against closed forms,
and one jitted step that hears both."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import orbit_camera
from PIL import Image

from sdsjax import losses
from sdsjax.files.reference_images import (
    BadReference,
    Orbit,
    read_reference,
    reference_of,
)
from sdsjax.training.supervision import (
    PenaltyInputs,
    attach,
    combine_penalties,
    depth_penalty,
    fit_size,
    one_view,
    reference_penalty,
    reference_terms,
)
from sdsjax.types import Prior, PriorSource, Rendering

RNG = np.random.default_rng(0)
DEPTH = jnp.asarray(2.5 + RNG.random((6, 5)), jnp.float32)
OPACITY = jnp.asarray(RNG.random((6, 5)), jnp.float32)
ESTIMATE = jnp.asarray(1 / DEPTH + 0.05 * RNG.normal(size=(6, 5)), jnp.float32)


mismatch = jax.jit(losses.disparity_mismatch)


def test_the_mismatch_is_what_least_squares_leaves():
    seen = np.asarray(OPACITY) > 0.5
    ours, theirs = 1 / np.asarray(DEPTH)[seen], np.asarray(ESTIMATE, float)[seen]
    table = np.stack([ours, np.ones_like(ours)], axis=1)
    (scale, _), (left,), *_ = np.linalg.lstsq(table, theirs, rcond=None)
    assert scale > 0
    want = left / ((theirs - theirs.mean()) ** 2).sum()
    got = mismatch(DEPTH, OPACITY, ESTIMATE)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize(
    ("estimate", "want"),
    [
        (7.0 / DEPTH + 3.0, 0.0),  # the same up to scale and shift
        (DEPTH, 1.0),  # the other way round: inside out is no match
        (jnp.full_like(DEPTH, 4.0), 0.0),  # an estimate that says nothing
    ],
)
def test_the_mismatch_of_closed_forms(estimate, want):
    got = mismatch(DEPTH, jnp.ones_like(DEPTH), estimate)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_mismatch_has_its_true_gradient_and_none_for_the_estimate():
    def value(depth, estimate):
        return mismatch(depth, OPACITY, estimate)

    slope, none = jax.jit(jax.grad(value, argnums=(0, 1)))(DEPTH, ESTIMATE)
    tangent = jnp.asarray(RNG.normal(size=DEPTH.shape), jnp.float32)
    h = 1e-2
    ahead = value(DEPTH + h * tangent, ESTIMATE)
    numeric = (ahead - value(DEPTH - h * tangent, ESTIMATE)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(slope * tangent), numeric, rtol=1e-2)
    assert not jnp.any(none)
    assert not jnp.any(jnp.where(OPACITY > 0.5, 0.0, slope))


def test_the_mismatch_is_finite_where_nothing_or_a_plane_is_seen():
    both = jax.jit(jax.value_and_grad(losses.disparity_mismatch))
    plane = jnp.full_like(DEPTH, 3.0)
    ones = jnp.ones_like(DEPTH)
    for depth, opacity, want in (
        (DEPTH, 0 * OPACITY, 0.0),
        (0 * DEPTH, ones, 0.0),
        (plane, ones, 1.0),
        (plane + 1e-6 * DEPTH, ones, 1.0),  # rounding is not relief
    ):
        value, slope = both(depth, opacity, ESTIMATE)
        np.testing.assert_allclose(value, want, atol=1e-5)
        assert float(jnp.max(jnp.abs(slope))) < 1.0


def drawing(rgb, opacity):
    return Rendering(rgb, opacity, jnp.full(opacity.shape, 3.0), rgb)


def test_a_perfect_rendering_has_no_reference_terms_over_any_background():
    mask = jnp.asarray(RNG.random((8, 8)), jnp.float32)
    color = jnp.asarray(RNG.random((8, 8, 3)), jnp.float32)
    view = reference_of(
        np.concatenate([color * mask[..., None], mask[..., None]], -1)[None],
        [orbit_camera(0.0, 0.0, width=8, height=8)],
    )
    one = one_view(view, 0, (8, 8))
    on_white = color * mask[..., None] + 1 - mask[..., None]
    for background in (jnp.zeros(3), jnp.array([0.2, 0.9, 0.4])):
        terms = reference_terms(one, drawing(on_white, mask), background)
        assert float(terms["rgb"]) < 1e-10
        assert float(terms["mask"]) == 0
    # an opaque white where nothing should be: nothing to see on white, all on black
    empty = one._replace(rgb=jnp.zeros((8, 8, 3)), mask=jnp.zeros((8, 8)))
    white = drawing(jnp.ones((8, 8, 3)), jnp.ones((8, 8)))
    for level in (1.0, 0.0):
        terms = reference_terms(empty, white, jnp.full(3, level))
        np.testing.assert_allclose(terms["rgb"], (1 - level) ** 2, atol=1e-6)
        np.testing.assert_allclose(terms["mask"], 1.0)


def test_a_view_at_another_size_sees_the_same_directions():
    given = reference_of(
        RNG.random((2, 8, 8, 4)).astype(np.float32),
        [orbit_camera(a, 10.0, width=8, height=8) for a in (0.0, 90.0)],
    )
    small = one_view(given, 1, (4, 4))
    want = orbit_camera(90.0, 10.0, width=4, height=4)
    for ours, theirs in zip(jax.tree.leaves(small.cameras), jax.tree.leaves(want)):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert small.rgb.shape == (4, 4, 3)
    picture = given.rgb[1]
    assert fit_size(picture, (8, 8)) is picture
    np.testing.assert_allclose(fit_size(jnp.ones((8, 6)), (3, 5)), 1.0, rtol=1e-6)


class Flat:
    """A representation of one grey level, drawn opaque at every pixel."""

    @staticmethod
    def render(params, state, camera, key):
        del state, key
        size = (camera.height, camera.width)
        return drawing(jnp.full((*size, 3), params), jnp.ones(size))


def seen_at(step, params, prior_params=None, prior=None):
    n, size = 2, (6, 5)
    drawn = Rendering(
        jnp.full((n, *size, 3), params), jnp.stack([OPACITY, 0 * OPACITY]),
        jnp.stack([DEPTH, DEPTH]), jnp.zeros((n, *size, 3)),
    )  # fmt: skip
    return PenaltyInputs(
        prior, prior_params, params, None, 2 * drawn.rgb - 1, drawn, step,
        jax.random.key(0),
    )  # fmt: skip


def test_the_depth_penalty_averages_views_and_falls_to_zero():
    prior = Prior(None, None, None, monocular=lambda x: (ESTIMATE, None))
    ask = combine_penalties(depth_penalty(3.0, 10))
    first = losses.disparity_mismatch(DEPTH, OPACITY, ESTIMATE)
    for step, left in ((0, 1.0), (4, 0.6), (10, 0.0), (12, 0.0)):
        got = ask(seen_at(step, 0.5, prior=prior))["depth"]
        np.testing.assert_allclose(got, 3.0 * left * first / 2, rtol=1e-5, atol=1e-9)


def test_the_reference_pulls_until_it_is_silent():
    rgba = np.ones((1, 6, 5, 4), np.float32)
    rgba[..., :3] = 0.8
    given = reference_of(rgba, [orbit_camera(0.0, 0.0, width=5, height=6)])
    source = attach(PriorSource("own", lambda own: own), given)
    assert source.bind(source.params) == "own"
    ask = reference_penalty(Flat, {"rgb": 2.0, "mask": 0.0}, until_step=3)

    @jax.jit
    @jax.value_and_grad
    def value(params, step, reference):
        carried = source.params._replace(prior=(), reference=reference)
        terms = ask(seen_at(step, params, carried))
        assert list(terms) == ["reference_rgb"]
        return terms["reference_rgb"]

    for step, scale in ((2, 1.0), (3, 0.0)):
        got, slope = value(jnp.float32(0.5), step, given)
        np.testing.assert_allclose(got, 2 * scale * 0.3**2, rtol=1e-5)
        np.testing.assert_allclose(slope, -4 * scale * 0.3, rtol=1e-5)


def save(path, size=16, mode="RGBA", hole=True):
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[size // 4 : -size // 4, size // 4 : -size // 4] = (255, 128, 0, 255)
    if not hole:
        pixels[..., 3] = 0
    Image.fromarray(pixels).convert(mode).save(path)


def test_a_picture_is_read_premultiplied_and_resized(tmp_path):
    save(tmp_path / "a.png")
    given = read_reference(tmp_path / "a.png", 8, Orbit(30.0, 20.0, 3.0, 35.0))
    assert given.rgb.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(given.mask.sum(), 16, rtol=0.02)
    np.testing.assert_allclose(given.rgb[0, 4, 4], (1, 128 / 255, 0), atol=1e-6)
    np.testing.assert_allclose(given.rgb[..., 0], given.mask, atol=1e-6)
    want = orbit_camera(30.0, 20.0, 3.0, fov=35.0, width=8, height=8)
    np.testing.assert_allclose(
        given.cameras.world_to_camera[0], want.world_to_camera, atol=1e-6
    )


def test_a_folder_gives_every_camera(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    free = orbit_camera(90.0, 10.0, 3.1, fov=30.0, width=8, height=8)
    views = [
        {"file": "a.png", "azimuth": 90, "elevation": 10, "fov": 30},
        {"file": "b.png", "world_to_camera": free.world_to_camera.tolist(), "fov": 30},
    ]
    (tmp_path / "cameras.json").write_text(json.dumps({"fov": 40, "views": views}))
    given = read_reference(tmp_path, 8)
    for leaf, want in zip(jax.tree.leaves(given.cameras), jax.tree.leaves(free)):
        np.testing.assert_allclose(leaf[0], want, atol=1e-5)
        np.testing.assert_allclose(leaf[1], want, atol=1e-5)


def folder(content):
    def make(path):
        save(path / "a.png")
        text = content if isinstance(content, str) else json.dumps(content)
        (path / "cameras.json").write_text(text)
        return path

    return make


def picture(**kind):
    def make(path):
        save(path / "a.png", **kind)
        return path / "a.png"

    return make


A = {"file": "a.png"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "none.png", "does not exist"),
        (lambda path: path, r"holds no cameras\.json"),
        (picture(mode="RGB"), "no alpha channel"),
        (picture(hole=False), "shows nothing"),
        (folder("{"), "not readable JSON"),
        (folder({"views": []}), "1 to 512"),
        (folder({"views": [{"file": "../a.png"}]}), "same folder"),
        (folder({"views": [{"file": "b.png"}]}), "does not exist"),
        (folder({"views": [{**A, "elevation": 100}]}), r"elevation = 100.*-90\.\.90"),
        (folder({"views": [{**A, "fov": "wide"}]}), "'wide'"),
        (folder({"views": [{**A, "world_to_camera": [[1, 0]]}]}), "4 rows of 4"),
        (folder({"views": [{**A, "world_to_camera": [[2] * 4] * 4}]}), "a rotation"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, make, message):
    with pytest.raises(BadReference, match=message) as caught:
        read_reference(make(tmp_path), 8)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_not_square_or_no_picture_is_refused(tmp_path):
    half = np.zeros((4, 8, 4), np.uint8)
    half[:, :4] = 255
    Image.fromarray(half).save(tmp_path / "a.png")
    with pytest.raises(BadReference, match=r"8 x 4: it must be square.*fit=true"):
        read_reference(tmp_path / "a.png", 8)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(BadReference, match="not a readable picture"):
        read_reference(tmp_path / "b.png", 8)


def test_a_damaged_picture_is_refused_wherever_the_damage_is(tmp_path):
    """Pillow raises a SyntaxError for some of it."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 4), np.uint8)
    Image.fromarray(noise, "RGBA").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    for damaged in (whole[: second - 2], whole[:second] + b"\0\0\0\0" + whole[second:]):
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(BadReference, match="not a readable picture") as caught:
            read_reference(tmp_path / "a.png", 8)
        assert "\n" not in str(caught.value)
