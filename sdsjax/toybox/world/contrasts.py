"""Captions that are wrong by one word: what tells an image-text scorer's attention.

A picture is of a spec seen from a view (an index into VIEW_WORDS). `wrong` changes one
thing of a caption: "object" (a kind), "color" (a colour, or a pair's two colours
swapped), "view". A text is true of a picture if nothing in the picture contradicts it:
it names the spec, and no view word, the view's, or another side of a kind whose sides
look alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sdsjax.toybox.world.objects import BASES, COLORS, DIRECTED_KINDS, KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.views import OVERHEAD, VIEW_WORDS

ASPECTS = ("object", "color", "view")
KIND_NAMES, COLOR_NAMES = tuple(KINDS), tuple(COLORS)


class Said(NamedTuple):
    """What a text says; view: None for no view words."""

    spec: SceneSpec
    view: int | None


def _other(rng: np.random.Generator, names, *taken):
    return str(rng.choice([name for name in names if name not in taken]))


def wrong(rng: np.random.Generator, said: Said, aspect: str) -> Said | None:
    """Changes one aspect of what was said: "object", "color" or "view".

    None for the view of what says none, or of a kind whose sides look alike.
    """
    spec, view = said
    below = spec.base_kind is not None and rng.random() < 0.5
    if aspect == "view":
        if view is None or spec.kind not in DIRECTED_KINDS:
            return None
        step = 1 + rng.integers(len(VIEW_WORDS) - 1)
        return Said(spec, int((view + step) % len(VIEW_WORDS)))
    if aspect == "object":
        if below:
            return Said(
                spec._replace(base_kind=_other(rng, BASES, spec.base_kind)), view
            )
        return Said(spec._replace(kind=_other(rng, KIND_NAMES, spec.kind)), view)
    if aspect != "color":
        raise ValueError(f"aspect {aspect!r}: choose one of {', '.join(ASPECTS)}")
    taken = (spec.color, spec.base_color)
    if spec.base_kind and rng.random() < 1 / 3:
        return Said(spec._replace(color=taken[1], base_color=taken[0]), view)
    key = "base_color" if below else "color"
    return Said(spec._replace(**{key: _other(rng, COLOR_NAMES, *taken)}), view)


def _side(kind: str, view):
    """The view as far as pictures of the kind tell it; -1 for none."""
    if view is None:
        return -1
    return int(view) if kind in DIRECTED_KINDS else 100 + (view == OVERHEAD)


def truth(pictures: list[Said], texts: list[Said | None]) -> np.ndarray:
    """Tells which texts are true of which pictures, each with its view: `[n m]` bool.

    A text without a view is true of its object from all sides, None of nothing.
    """
    specs: dict[SceneSpec, int] = {}
    number = [specs.setdefault(p.spec, len(specs)) for p in pictures]
    named = [-1 if t is None else specs.get(t.spec, -1) for t in texts]
    same = np.asarray(number)[:, None] == np.asarray(named)
    seen = np.asarray([_side(p.spec.kind, p.view) for p in pictures])
    asked = np.asarray([-1 if t is None else _side(t.spec.kind, t.view) for t in texts])
    return same & ((asked == -1) | (seen[:, None] == asked))
