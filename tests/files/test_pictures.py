"""Pictures as people have them: modes, turns, backgrounds, frames. A table of kinds."""

import math
import sys
import types

import numpy as np
import pytest
from PIL import Image

from sdsjax.cli import checks
from sdsjax.files.pictures import (
    BadReference,
    fitted,
    read_rgba,
    share_of_frame,
    squared,
)
from sdsjax.files.reference_images import Orbit, read_picture, read_reference
from sdsjax.training.config import ConfigError

WHITE = (1.0, 1.0, 1.0)
RED = np.array([0.8, 0.2, 0.1])


def disc(high=96, wide=96, middle=(48, 48), radius=24.0, supersample=8):
    """The coverage [h w] of a disc's pixels, from many samples a pixel."""
    grid = (np.arange(max(high, wide) * supersample) + 0.5) / supersample
    y, x = grid[: high * supersample, None], grid[None, : wide * supersample]
    inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    return inside.reshape(high, supersample, wide, supersample).mean(axis=(1, 3))


def over(coverage, background=WHITE, colour=RED):
    rgb = coverage[..., None] * colour + (1 - coverage[..., None]) * background
    return Image.fromarray(np.round(255 * rgb).astype(np.uint8))


def with_alpha(coverage, mode="RGBA"):
    rgba = np.concatenate([np.tile(RED, (*coverage.shape, 1)), coverage[..., None]], -1)
    return Image.fromarray(np.round(255 * rgba).astype(np.uint8)).convert(mode)


def palette(coverage):
    """Red, and an index that is clear: what a GIF or an indexed PNG has."""
    picture = Image.fromarray((coverage > 0.5).astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, *np.round(255 * RED).astype(int).tolist()])
    picture.info["transparency"] = 0
    return picture


def sixteen_bits(coverage):
    grey = np.round(65535 * (1 - 0.7 * coverage)).astype(np.uint16)
    return Image.fromarray(grey)


# name: (picture of a coverage, how it is saved, largest error of alpha, of colour)
KINDS = {
    "RGBA PNG": (with_alpha, {"format": "PNG"}, 0.01, 0.01),
    "RGBA WebP": (with_alpha, {"format": "WEBP", "lossless": True}, 0.01, 0.01),
    "RGBA TIFF": (with_alpha, {"format": "TIFF"}, 0.01, 0.01),
    "LA PNG": (lambda c: with_alpha(c, "LA"), {"format": "PNG"}, 0.01, None),
    "palette PNG": (palette, {"format": "PNG", "transparency": 0}, 0.5, None),
    "GIF": (palette, {"format": "GIF", "transparency": 0}, 0.5, None),
    "RGB PNG": (over, {"format": "PNG"}, 0.03, 0.03),
    "RGB BMP": (over, {"format": "BMP"}, 0.03, 0.03),
    "JPEG": (over, {"format": "JPEG", "quality": 90}, 0.3, 0.35),
    "CMYK JPEG": (
        lambda c: over(c).convert("CMYK"),
        {"format": "JPEG", "quality": 95},
        0.3,
        0.3,
    ),
    "CMYK TIFF": (lambda c: over(c).convert("CMYK"), {"format": "TIFF"}, 0.05, 0.05),
    "YCbCr TIFF": (lambda c: over(c).convert("YCbCr"), {"format": "TIFF"}, 0.05, 0.05),
    "grey PNG": (lambda c: over(c).convert("L"), {"format": "PNG"}, 0.1, None),
    "16-bit grey PNG": (sixteen_bits, {"format": "PNG"}, 0.1, None),
    "opaque RGBA PNG": (
        lambda c: over(c).convert("RGBA"),
        {"format": "PNG"},
        0.03,
        0.03,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_object(tmp_path, kind):
    make, options, alpha_error, colour_error = KINDS[kind]
    coverage = disc()
    make(coverage).save(tmp_path / "picture", **options)
    rgba = read_rgba(tmp_path / "picture", WHITE)
    assert np.abs(rgba[..., 3] - coverage).max() <= alpha_error
    assert np.abs(rgba[..., 3] - coverage).mean() < 0.01
    assert (rgba[..., :3] <= rgba[..., 3:] + 1e-6).all()
    if colour_error is not None:
        expected = coverage[..., None] * RED
        assert np.abs(rgba[..., :3] - expected).max() <= colour_error


@pytest.mark.parametrize("background", [WHITE, (0.0, 0.0, 0.0), (0.1, 0.8, 0.3)])
def test_a_flat_background_is_keyed_with_its_holes(tmp_path, background):
    """Of two spots inside the object, the one is a hole, the other shaded paint."""
    coverage = disc() - disc(middle=(40, 48), radius=6.0)
    paint = disc(middle=(58, 48), radius=6.0)[..., None]
    rgb = coverage[..., None] * RED + (1 - coverage[..., None]) * background
    shaded = np.abs(np.array(background) - 0.04)
    rgb = paint * shaded + (1 - paint) * rgb
    noise = np.random.default_rng(0).normal(0, 0.005, rgb.shape)
    rgb = np.clip(rgb + noise, 0, 1)
    Image.fromarray(np.round(255 * rgb).astype(np.uint8)).save(tmp_path / "a.png")
    rgba = read_rgba(tmp_path / "a.png", background)
    assert np.abs(rgba[..., 3] - coverage).max() < 0.15
    assert rgba[40, 48, 3] == 0
    np.testing.assert_allclose(rgba[58, 48, :3], shaded, atol=0.05)


def test_what_no_background_cuts_out_is_refused(tmp_path):
    over(disc()).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "empty.png")
    with pytest.raises(BadReference, match=r"background=white .*\[photo\]"):
        read_rgba(tmp_path / "a.png")
    with pytest.raises(BadReference, match="shows nothing"):
        read_rgba(tmp_path / "empty.png", WHITE)
    # nothing of it is black at its border
    assert read_rgba(tmp_path / "a.png", (0.0, 0.0, 0.0))[..., 3].min() == 1


@pytest.mark.parametrize("text", ["whit", "1,2,3", "0.5,0.5", "red"])
def test_a_background_that_is_no_colour_is_one_line(text):
    with pytest.raises(ConfigError, match=r"reference\.background .*white, black"):
        checks.resolve("image_to_3d", {"reference.background": text})


def test_the_extra_is_asked_where_it_is_installed(tmp_path, monkeypatch):
    coverage = disc()
    over(coverage).save(tmp_path / "a.png")
    module = types.ModuleType("rembg")
    module.remove = lambda picture: with_alpha(coverage)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rembg", module)
    rgba = read_rgba(tmp_path / "a.png")
    np.testing.assert_allclose(rgba[..., 3], coverage, atol=0.01)
    np.testing.assert_allclose(rgba[..., :3], coverage[..., None] * RED, atol=0.02)

    def offline(picture):
        raise ConnectionError("no route\nto host")

    module.remove = offline  # type: ignore[attr-defined]
    with pytest.raises(BadReference, match="fetches its network once") as caught:
        read_rgba(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_are_undone(tmp_path, orientation):
    upright = disc(64, 96, (20, 30), 10.0)
    turns = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: np.rot90, 7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = np.ascontiguousarray(turns[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    over(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    alpha = read_rgba(tmp_path / "a.jpg", WHITE)[..., 3]
    assert alpha.shape == upright.shape
    assert np.abs(alpha - upright).mean() < 0.01


def box_of(alpha):
    rows = np.flatnonzero((alpha > 0.5).any(axis=1))
    columns = np.flatnonzero((alpha > 0.5).any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


@pytest.mark.parametrize(
    ("high", "wide", "middle", "radius"),
    [
        (96, 96, (48, 48), 24.0),
        (200, 96, (160, 30), 24.0),  # not square, off the middle
        (96, 200, (30, 185), 30.0),  # cut by the border
        (600, 400, (300, 200), 6.0),  # small
        (600, 600, (300, 300), 295.0),  # fills the frame
    ],
)
def test_an_object_is_brought_to_its_share_of_the_frame(high, wide, middle, radius):
    coverage = disc(high, wide, middle, radius, supersample=2)
    rgba = coverage[..., None] * np.array([*RED, 1.0])
    got = fitted(rgba.astype(np.float32), 0.7, 100)
    top, bottom, left, right = box_of(got[..., 3])
    assert got.shape == (100, 100, 4)
    assert max(bottom - top, right - left) == pytest.approx(70, abs=8)
    assert (top + bottom) / 2 == pytest.approx(50, abs=1.5)
    assert (left + right) / 2 == pytest.approx(50, abs=1.5)
    np.testing.assert_allclose(got[50, 50], [*RED, 1.0], atol=0.02)


def test_specks_do_not_move_an_object():
    coverage = disc()
    speckled = coverage.copy()
    speckled[2, 3] = speckled[90, 5] = 1.0
    one, other = (
        fitted((c[..., None] * np.ones(4)).astype(np.float32), 0.7, 64)
        for c in (coverage, speckled)
    )
    np.testing.assert_array_equal(one, other)


def test_padding_to_a_square_says_what_it_added():
    rgba = np.ones((5, 8, 4), np.float32)
    square, (left, top) = squared(rgba)
    assert square.shape == (8, 8, 4)
    np.testing.assert_array_equal(square[top : top + 5, left : left + 8], rgba)
    assert square.sum() == rgba.sum()


def test_the_share_follows_the_camera():
    """Twice as far away: half as large; a wider lens: smaller; never cut off."""
    near, far = share_of_frame(3.0, 40.0), share_of_frame(6.0, 40.0)
    assert near == pytest.approx(2 * far)
    wide = share_of_frame(3.0, 60.0)
    ratio = math.tan(math.radians(30)) / math.tan(math.radians(20))
    assert near / wide == pytest.approx(ratio)
    assert share_of_frame(0.5, 40.0) == 0.95


@pytest.mark.slow
def test_a_photo_of_a_true_view_is_brought_back_to_it(tmp_path):
    """A toybox's true view, moved, on white, as JPEG: fitted, it covers itself.

    The share of the frame differs by 11 of 100 from kind to kind (one standard
    deviation, 30 kinds), two of which leave 1 / 1.22^2 of the union.
    """
    from sdsjax.toybox.world.references import true_rgba

    ious = []
    for prompt in ("a red mug", "a green car", "a yellow duck", "a blue chair"):
        (rgba,), _ = true_rgba(prompt, [Orbit(20.0, 15.0)], 96)
        photo = np.ones((220, 300, 3), np.float32)
        photo[100:196, 180:276] = rgba[..., :3] + 1 - rgba[..., 3:]
        pixels = Image.fromarray(np.round(255 * photo).astype(np.uint8))
        pixels.save(tmp_path / "photo.jpg", quality=92)
        got = read_reference(
            tmp_path / "photo.jpg", 96, Orbit(20.0, 15.0), background="white", fit=True
        )
        ours, true = np.asarray(got.mask[0]) > 0.5, rgba[..., 3] > 0.5
        ious.append((ours & true).sum() / (ours | true).sum())
    assert min(ious) > 0.6


def test_a_picture_that_is_square_is_taken_as_it_is(tmp_path):
    coverage = disc()
    with_alpha(coverage).save(tmp_path / "a.png")
    np.testing.assert_allclose(
        read_picture(tmp_path / "a.png", 96)[..., 3], coverage, atol=0.01
    )
