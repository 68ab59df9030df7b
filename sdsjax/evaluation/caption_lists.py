"""Among which captions the right one is to be found, for R-precision.

The toybox's own vocabulary makes a list for each of its captions; any other list a
person gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sdsjax.toybox.world.captions import caption, parse_caption
from sdsjax.toybox.world.objects import BASES, COLORS, KINDS
from sdsjax.toybox.world.scene import SceneSpec


def with_prompt(prompt: str, captions: Sequence[str]) -> list[str]:
    """Puts a prompt at the head of a list, each caption once."""
    return list(dict.fromkeys([prompt, *captions]))


def toybox_captions(prompt: str) -> list[str]:
    """Lists what the toybox could have said instead of a caption, that one first.

    The single objects, every kind in every colour (270); for two objects also those
    that differ from them by one kind or one colour. Raises CaptionError for a prompt
    that is no caption.
    """
    spec, _ = parse_caption(prompt)
    specs = [SceneSpec(kind, color) for kind in KINDS for color in COLORS]
    if spec.base_kind is not None:
        specs += [spec._replace(kind=kind) for kind in KINDS]
        specs += [spec._replace(color=color) for color in COLORS]
        specs += [spec._replace(base_kind=kind) for kind in BASES]
        specs += [spec._replace(base_color=color) for color in COLORS]
    others = (other for other in dict.fromkeys(specs) if other != spec)
    return with_prompt(prompt, [caption(other) for other in others])


def digest(captions: Sequence[str]) -> str:
    """Makes the short name of a list, whatever its order."""
    text = "\n".join(sorted(set(captions)))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
