"""The toybox's caption grammar, both ways.

    caption = wording(object) [" on " | " on top of " object] ["," view word]
    object  = "a" | "an" | "the", color, kind

A caption fixes geometry, pose and colours; wording 0 is the plain "a red ball".
`parse_caption` inverts every wording, in any case, whatever the punctuation.
"""

import difflib
import re
import unicodedata
from functools import cache

import numpy as np

from sdsjax.toybox.world.objects import BASES, COLORS, KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.views import VIEW_WORDS

# What stands before the colour; the last word agrees with "orange".
WORDINGS = (
    "a",
    "a photo of a",
    "a 3d render of a",
    "a toy",
    "a picture of a",
    "the",
    "a small",
    "an image of the",
)
JOININGS = ("on", "on top of")
_ARTICLES = frozenset({"a", "an", "the"})
_OPENINGS = frozenset(" ".join(WORDINGS).split())
_HELDOUT_FRACTION = 0.1


class CaptionError(ValueError):
    """A caption outside the toybox's grammar; the message is one line for a person."""


def _object(opening: str, color: str, kind: str) -> str:
    """ "a" + "orange ball" -> "an orange ball"."""
    if opening.split()[-1] == "a" and color[0] in "aeiou":
        opening += "n"
    return f"{opening} {color} {kind}"


def caption(spec: SceneSpec, view: int | None = None, wording: int = 0) -> str:
    """The caption of a spec.

    Args:
        spec: what to say.
        view: index into `VIEW_WORDS`, or None for no view word.
        wording: any integer >= 0; counts through openings, then joinings.
    """
    text = _object(WORDINGS[wording % len(WORDINGS)], spec.color, spec.kind)
    if spec.base_kind is not None and spec.base_color is not None:
        joining = JOININGS[wording // len(WORDINGS) % len(JOININGS)]
        text += f" {joining} {_object('a', spec.base_color, spec.base_kind)}"
    return text if view is None else f"{text}, {VIEW_WORDS[int(view)]}"


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that a caption may hold, lower case, sorted."""
    words = set(COLORS) | set(KINDS) | _OPENINGS | _ARTICLES
    words |= set(" ".join(JOININGS + VIEW_WORDS).split())
    return tuple(sorted(words))


def plain_caption(text: str) -> str:
    """A text as the toybox's encoder reads it: words and commas, single spaces.

    Quotes, dashes, brackets and other marks, typographic ones too, say nothing in a
    caption, but would reach the text encoder as tokens that it never met in training.
    """
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"[^\w,]|_", " ", text)
    return re.sub(r"\s*,[\s,]*", ", ", " ".join(text.split())).strip(", ")


def _reject_unknown(words):
    known = vocabulary()
    for word in words:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
            hint = f"nearest known: {', '.join(near)}" if near else "nothing is near it"
            raise CaptionError(
                f"the toybox does not know the word {word!r} ({hint}); its vocabulary "
                "is listed by `python -m sdsjax.main --list`"
            )


def _parse_object(words, text):
    """["a", "red", "ball"] with any opening -> ("ball", "red")."""
    opening, tail = words[:-2], words[-2:]
    if len(tail) < 2 or tail[0] not in COLORS or tail[1] not in KINDS:
        raise CaptionError(
            f"cannot read {' '.join(words)!r} in the prompt {text!r}: the toybox wants "
            "a colour and a kind, as in 'a red ball' or 'a red ball on a blue cube' "
            "(`python -m sdsjax.main --list`)"
        )
    stray = [word for word in opening if word not in _OPENINGS | _ARTICLES]
    if stray:
        raise CaptionError(
            f"{stray[0]!r} does not belong before {' '.join(tail)!r} in the prompt "
            f"{text!r}: an object has one colour and one kind, as in 'a red ball'"
        )
    return tail[1], tail[0]


def parse_caption(text: str) -> tuple[SceneSpec, int | None]:
    """The spec and the view index (None without view words) that a caption says.

    Raises:
        CaptionError: for a word outside the vocabulary, naming it and the nearest known
            words; for known words in an order that says no scene.
    """
    words = re.findall(r"[^\W_]+", text.lower())
    _reject_unknown(words)
    view = None
    for index, view_words in enumerate(VIEW_WORDS):
        tail = view_words.split()
        if words[-len(tail) :] == tail:
            view, words = index, words[: -len(tail)]
            break
    if "on" not in words:
        return SceneSpec(*_parse_object(words, text)), view
    middle = words.index("on")
    own, base = words[:middle], words[middle + 1 :]
    if base[:2] == ["top", "of"]:
        base = base[2:]
    kind, color = _parse_object(own, text)
    base_kind, base_color = _parse_object(base, text)
    if base_kind not in BASES:
        raise CaptionError(
            f"nothing can stand on a {base_kind} in the toybox; it can on: "
            f"{', '.join(BASES)}"
        )
    return SceneSpec(kind, color, base_kind, base_color), view


@cache
def all_specs() -> tuple[SceneSpec, ...]:
    """Every single object, then every pair of two colours that differ."""
    single = [SceneSpec(kind, color) for kind in KINDS for color in COLORS]
    pairs = [
        SceneSpec(own.kind, own.color, base_kind, base_color)
        for own in single
        for base_kind in BASES
        for base_color in COLORS
        if base_color != own.color
    ]
    return tuple(single + pairs)


@cache
def pair_split() -> tuple[tuple[SceneSpec, ...], tuple[SceneSpec, ...]]:
    """Splits the two-object specs into (train, held out), the same on any machine.

    A tenth is held out.
    What is held out is combinations; each of their words occurs in training.
    """
    pairs = [spec for spec in all_specs() if spec.base_kind is not None]
    order = np.random.RandomState(0).permutation(len(pairs))
    held = set(order[: int(_HELDOUT_FRACTION * len(pairs))].tolist())
    train = tuple(spec for i, spec in enumerate(pairs) if i not in held)
    return train, tuple(pairs[i] for i in sorted(held))
