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
DEPTH = (2.5 + RNG.random((6, 5))).astype(np.float32)
OPACITY = RNG.random((6, 5), np.float32)
ESTIMATE = (1 / DEPTH + 0.05 * RNG.normal(size=(6, 5))).astype(np.float32)


mismatch = jax.jit(losses.disparity_mismatch)
view_of = jax.jit(one_view, static_argnums=2)
fitted = jax.jit(fit_size, static_argnums=1)


@jax.jit
def terms_of(reference, rgb, opacity, background):
    return reference_terms(reference, drawing(rgb, opacity), background)


def test_the_mismatch_is_what_least_squares_leaves():
    seen = OPACITY > 0.5
    ours, theirs = 1 / DEPTH[seen], ESTIMATE[seen].astype(float)
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
        (np.full_like(DEPTH, 4.0), 0.0),  # an estimate that says nothing
    ],
)
def test_the_mismatch_of_closed_forms(estimate, want):
    got = mismatch(DEPTH, np.ones_like(DEPTH), estimate)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_mismatch_has_its_true_gradient_and_none_for_the_estimate():
    def value(depth, estimate):
        return mismatch(depth, OPACITY, estimate)

    slopes = jax.jit(jax.grad(value, argnums=(0, 1)))(DEPTH, ESTIMATE)
    slope, none = map(np.asarray, slopes)
    tangent = RNG.normal(size=DEPTH.shape).astype(np.float32)
    h = np.float32(1e-2)
    ahead, behind = (float(value(DEPTH + by * tangent, ESTIMATE)) for by in (h, -h))
    np.testing.assert_allclose(
        np.sum(slope * tangent), (ahead - behind) / 2e-2, rtol=1e-2
    )
    assert not none.any()
    assert not slope[OPACITY <= 0.5].any()


def test_the_mismatch_is_finite_where_nothing_or_a_plane_is_seen():
    both = jax.jit(jax.value_and_grad(losses.disparity_mismatch))
    plane = np.full_like(DEPTH, 3.0)
    ones = np.ones_like(DEPTH)
    for depth, opacity, want in (
        (DEPTH, 0 * OPACITY, 0.0),
        (0 * DEPTH, ones, 0.0),
        (plane, ones, 1.0),
        (plane + np.float32(1e-6) * DEPTH, ones, 1.0),  # rounding is not relief
    ):
        value, slope = both(depth, opacity, ESTIMATE)
        np.testing.assert_allclose(value, want, atol=1e-5)
        assert np.abs(slope).max() < 1.0


def drawing(rgb, opacity):
    return Rendering(rgb, opacity, jnp.full(opacity.shape, 3.0), rgb)


def test_a_perfect_rendering_has_no_reference_terms_over_any_background():
    mask, color = RNG.random((8, 8), np.float32), RNG.random((8, 8, 3), np.float32)
    view = reference_of(
        np.concatenate([color * mask[..., None], mask[..., None]], -1)[None],
        [orbit_camera(0.0, 0.0, width=8, height=8)],
    )
    one = view_of(view, 0, (8, 8))
    on_white = color * mask[..., None] + 1 - mask[..., None]
    for background in ((0.0, 0.0, 0.0), (0.2, 0.9, 0.4)):
        terms = terms_of(one, on_white, mask, np.array(background, np.float32))
        assert float(terms["rgb"]) < 1e-10
        assert float(terms["mask"]) == 0
    # an opaque white where nothing should be: nothing to see on white, all on black
    white, full = np.ones((8, 8, 3), np.float32), np.ones((8, 8), np.float32)
    empty = one._replace(rgb=0 * white, mask=0 * full)
    for level in (1.0, 0.0):
        terms = terms_of(empty, white, full, np.full(3, level, np.float32))
        np.testing.assert_allclose(terms["rgb"], (1 - level) ** 2, atol=1e-6)
        np.testing.assert_allclose(terms["mask"], 1.0)


def test_a_view_at_another_size_sees_the_same_directions():
    given = reference_of(
        RNG.random((2, 8, 8, 4)).astype(np.float32),
        [orbit_camera(a, 10.0, width=8, height=8) for a in (0.0, 90.0)],
    )
    small = view_of(given, 1, (4, 4))
    want = orbit_camera(90.0, 10.0, width=4, height=4)
    for ours, theirs in zip(jax.tree.leaves(small.cameras), jax.tree.leaves(want)):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert small.rgb.shape == (4, 4, 3)
    picture = given.rgb[1]
    assert fit_size(picture, (8, 8)) is picture
    ones = np.ones((8, 6), np.float32)
    np.testing.assert_allclose(fitted(ones, (3, 5)), 1.0, rtol=1e-6)


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
        jnp.full((n, *size, 3), params), jnp.asarray([OPACITY, 0 * OPACITY]),
        jnp.asarray([DEPTH, DEPTH]), jnp.zeros((n, *size, 3)),
    )  # fmt: skip
    return PenaltyInputs(
        prior, prior_params, params, None, 2 * drawn.rgb - 1, drawn, step,
        jax.random.key(0),
    )  # fmt: skip


def test_the_depth_penalty_averages_views_and_falls_to_zero():
    estimate = jnp.asarray(ESTIMATE)
    prior = Prior(None, None, None, monocular=lambda x: (estimate, None))
    ask = combine_penalties(depth_penalty(3.0, 10))
    asked = jax.jit(lambda step: ask(seen_at(step, 0.5, prior=prior))["depth"])
    first = np.asarray(mismatch(DEPTH, OPACITY, ESTIMATE))
    for step, left in ((0, 1.0), (4, 0.6), (10, 0.0), (12, 0.0)):
        got = asked(step)
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
    rgb, mask = np.asarray(given.rgb), np.asarray(given.mask)
    np.testing.assert_allclose(mask.sum(), 16, rtol=0.02)
    np.testing.assert_allclose(rgb[0, 4, 4], (1, 128 / 255, 0), atol=1e-6)
    np.testing.assert_allclose(rgb[..., 0], mask, atol=1e-6)
    want = orbit_camera(30.0, 20.0, 3.0, fov=35.0, width=8, height=8)
    np.testing.assert_allclose(
        np.asarray(given.cameras.world_to_camera)[0], want.world_to_camera, atol=1e-6
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
        np.testing.assert_allclose(np.asarray(leaf)[0], want, atol=1e-5)
        np.testing.assert_allclose(np.asarray(leaf)[1], want, atol=1e-5)


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
