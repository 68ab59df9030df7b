"""A picture of an object as premultiplied RGBA, whatever a program or a camera wrote.

Whatever Pillow reads: any mode and depth, turned upright by its EXIF orientation. An
alpha channel cuts the object out. Without one (a JPEG, a CMYK or an RGB file, or one
that is opaque everywhere) a flat background of a known colour is keyed out, or else the
extra `photo` (rembg, MIT) finds the object. Pixels are rgba in [0, 1], rgb times alpha.
"""

from __future__ import annotations

import importlib
import math
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MOST_PIXELS = 1 << 26  # of a picture
# Pillow raises SyntaxError and struct.error for damage inside a PNG.
UNREADABLE = (
    *(OSError, SyntaxError, EOFError, struct.error, ValueError),
    Image.DecompressionBombError,
)
COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}
# How far a flat background's pixels may lie from its colour: sensors' noise, JPEG's.
TOLERANCE = 0.06
# An enclosed hole shows the background as flat as outside, to a level of eight bits
# and a half, and is no mere glint.
SHADED, HOLE = 1.5 / 255, 16
# Half of the side that an object's box takes up in the toybox's true views, in world
# units: the mean over all kinds, azimuths and elevations of 0, 15 and 30 degrees.
HALF_SIDE = 0.82
MOST_OF_THE_FRAME = 0.95
SPECK = 0.01  # what is smaller than this share of the largest piece is none of it


class BadReference(ValueError):
    """A given picture or camera cannot be used; the message is one line."""


def background_colour(text: str) -> tuple[float, ...] | None:
    """Reads the colour of a flat background: "" is None, white, black, or "r,g,b".

    Raises BadReference for anything else.
    """
    if not text:
        return None
    if text in COLOURS:
        return COLOURS[text]
    try:
        colour = tuple(float(part) for part in text.strip("() ").split(","))
    except ValueError:
        colour = ()
    if len(colour) != 3 or not all(0.0 <= c <= 1.0 for c in colour):
        raise BadReference(
            f"background {text!r}: choose white, black or r,g,b, each in [0, 1], or "
            "leave it empty"
        )
    return colour


def read_rgba(path: Path, background: tuple[float, ...] | None = None) -> np.ndarray:
    """Reads rgba [h w 4] in [0, 1] of the object in a picture, rgb times alpha.

    background: the colour of a flat one, keyed out where the picture has no alpha.
    Raises BadReference.
    """
    straight = read_straight(path)
    if straight[..., 3].min() < 1.0:
        rgba = straight
        rgba[..., :3] *= rgba[..., 3:]
    elif background is not None:
        rgba = keyed(straight[..., :3], np.asarray(background, np.float32))
    else:
        rgba = _object_of(path, straight[..., :3])
    if rgba[..., 3].max() <= 0.5:
        raise BadReference(f"{path} shows nothing: its alpha is nowhere above one half")
    return rgba


def read_straight(path: Path) -> np.ndarray:
    """Reads rgba [h w 4] in [0, 1] of a picture as it is, alpha 1 where it has none.

    Raises BadReference.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadReference(f"{path} has more than {MOST_PIXELS} pixels")
            # phones store a turn beside the pixels instead of turning them
            return _straight(ImageOps.exif_transpose(image))
    except BadReference:
        raise
    except FileNotFoundError:
        raise BadReference(f"the reference {path} does not exist") from None
    except UNREADABLE as error:
        said = " ".join(str(error).split())
        raise BadReference(f"{path} is not a readable picture: {said}") from None


def _straight(image: Image.Image) -> np.ndarray:
    """Returns rgba [h w 4] in [0, 1] of a picture of any mode, alpha 1 without one."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow would clip more than eight bits instead of scaling them
        grey = np.asarray(image).astype(np.float32)
        top = 65535.0 if image.mode != "F" else (1.0 if grey.max() <= 1 else 255.0)
        grey = np.clip(grey / top, 0.0, 1.0)
        return np.stack([grey, grey, grey, np.ones_like(grey)], axis=-1)
    return np.asarray(image.convert("RGBA"), np.float32) / 255.0


def keyed(rgb: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Keys a flat background [3] out of a picture [h w 3]; rgba, premultiplied.

    Background is what has its colour and hangs together with the picture's border, and
    what is enclosed (a handle's hole) and as flat as that: white paint, which is
    shaded, stays. Of the pixels beside it, which show both, the
    alpha is their distance from the background over that of the object's own pixels
    nearby; their colour is what the background leaves of it.
    """
    from scipy import ndimage

    distance = np.abs(rgb - background).max(axis=-1)
    labels, count = _pieces(distance < TOLERANCE)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.isin(labels, np.unique(rim[rim > 0]))
    if outside.any():
        # JPEG's noise lies beside edges, where a hole lies too
        beside = outside & _grown(~outside, 5)
        level = np.median(distance[beside if beside.any() else outside]) + SHADED
        names = np.arange(1, count + 1)
        flat = np.asarray(ndimage.median(distance, labels, names)) <= level
        large = np.bincount(labels.ravel(), minlength=count + 1)[1:] >= HOLE
        outside |= np.isin(labels, names[flat & large])
    edge = _grown(outside, 2) & ~outside
    # a pixel further in, an object shows nothing of the background; JPEG needs both
    own = ndimage.maximum_filter(distance, size=7)
    share = np.clip(distance / np.maximum(own, TOLERANCE), 0.0, 1.0)
    alpha = np.where(outside, 0.0, np.where(edge, share, 1.0))[..., None]
    ours = np.clip(rgb - (1.0 - alpha) * background, 0.0, alpha)
    return np.concatenate([ours, alpha], axis=-1).astype(np.float32)


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Returns a mask [h w] with a rim of so many pixels around it."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3)), pixels), bool)


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the number [h w] of the piece that a pixel is in, 0 in none; how many."""
    from skimage import measure

    labels = np.asarray(measure.label(mask, connectivity=2))
    return labels, int(labels.max())


def _object_of(path: Path, rgb: np.ndarray) -> np.ndarray:
    """Has rembg cut the object out, premultiplied. Raises BadReference without it."""
    try:
        rembg = importlib.import_module("rembg")
    except ImportError:
        raise BadReference(
            f"{path} has no alpha channel, or is opaque everywhere: pass "
            "--config.reference.background=white (or r,g,b) for a flat background, "
            "install the extra that removes any (pip install 'sdsjax[photo]'), or save "
            "it as an RGBA PNG with the object cut out"
        ) from None
    pixels = Image.fromarray(np.round(255 * rgb).astype(np.uint8))
    try:
        cut = rembg.remove(pixels)
    # Without its network's weights, which it fetches once, it fails in many ways.
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise BadReference(
            f"{path}: rembg could not remove the background ({said}); it fetches its "
            "network once: do that with a connection, or pass an RGBA PNG"
        ) from None
    assert isinstance(cut, Image.Image)
    rgba = np.asarray(cut.convert("RGBA"), np.float32) / 255.0
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


def share_of_frame(distance: float, fov: float) -> float:
    """Returns the share of the frame's side that an object takes up in training views.

    distance in world units, fov in degrees. See HALF_SIDE.
    """
    share = HALF_SIDE / (distance * math.tan(0.5 * math.radians(fov)))
    return min(share, MOST_OF_THE_FRAME)


def fitted(rgba: np.ndarray, share: float, size: int) -> np.ndarray:
    """Shows the object of rgba [h w 4] in the middle of a picture [size size 4].

    The longer side of the object's box is `share` of the picture's; what the box leaves
    is clear. Specks that a mask left elsewhere are no object.
    """
    labels, count = _pieces(rgba[..., 3] > 0.5)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    pieces = 1 + np.flatnonzero(sizes >= SPECK * sizes.max())
    # a rim of half-covered pixels belongs to it, and is no part of its box
    seen = np.pad(np.isin(labels, pieces), 1)
    rows, columns = (np.flatnonzero(seen.any(axis=1 - axis)) for axis in (0, 1))
    longer = max(len(range(line[0], line[-1] + 1)) for line in (rows, columns))
    rim = _grown(seen, 1)[..., None]
    cut = np.where(rim, np.pad(rgba, ((1, 1), (1, 1), (0, 0))), 0.0)
    cut = cut[rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2]
    # twice as fine as what is wanted: where it lies is then right to half a pixel
    scale = 2 * share * size / longer
    high, wide = (max(round(scale * n), 1) for n in cut.shape[:2])
    cut = _resized(cut.astype(np.float32), wide, high)
    side = max(2 * size, high, wide)
    square = _window(cut, -((side - high) // 2), -((side - wide) // 2), side)
    return resize(square, size)


def squared(rgba: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Pads rgba [h w 4] to a square; returns it and the (left, top) that was added."""
    high, wide = rgba.shape[:2]
    side = max(high, wide)
    left, top = (side - wide) // 2, (side - high) // 2
    return _window(rgba, -top, -left, side), (left, top)


def _window(rgba: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Returns the square [side side 4] from (top, left) on, clear outside of rgba."""
    high, wide = rgba.shape[:2]
    out = np.zeros((side, side, 4), np.float32)
    first, begin = max(top, 0), max(left, 0)
    last, end = min(top + side, high), min(left + side, wide)
    out[first - top : last - top, begin - left : end - left] = rgba[
        first:last, begin:end
    ]
    return out


def resize(rgba: np.ndarray, size: int) -> np.ndarray:
    """Resizes premultiplied rgba [s s 4]: averaged down, bilinear up."""
    return rgba if rgba.shape[0] == size else _resized(rgba, size, size)


def _resized(rgba: np.ndarray, width: int, height: int) -> np.ndarray:
    channels = [
        Image.fromarray(np.ascontiguousarray(rgba[..., c])).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for c in range(4)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)
