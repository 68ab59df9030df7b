"""The grammar: every caption is read back as what it says."""

import re

import pytest

from sdsjax.toybox.world.captions import (
    JOININGS,
    WORDINGS,
    CaptionError,
    all_specs,
    caption,
    pair_split,
    parse_caption,
    vocabulary,
)
from sdsjax.toybox.world.objects import BASES, COLORS, KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.views import VIEW_WORDS

BALL = SceneSpec("ball", "red")
STACK = SceneSpec("ball", "red", "cube", "blue")


def test_plain_wordings():
    assert caption(BALL) == "a red ball"
    assert caption(STACK) == "a red ball on a blue cube"
    assert caption(SceneSpec("mug", "orange")) == "an orange mug"
    assert caption(BALL, view=1) == "a red ball, left side view"
    assert caption(STACK, wording=len(WORDINGS)) == "a red ball on top of a blue cube"
    texts = {caption(STACK, wording=w) for w in range(len(WORDINGS) * len(JOININGS))}
    assert len(texts) == len(WORDINGS) * len(JOININGS)


def test_every_spec_survives_the_round_trip():
    views = (None, *range(len(VIEW_WORDS)))
    for i, spec in enumerate(all_specs()):
        view = views[i % len(views)]
        assert parse_caption(caption(spec, view, wording=i)) == (spec, view)


@pytest.mark.parametrize("wording", range(len(WORDINGS) * len(JOININGS)))
@pytest.mark.parametrize("view", [None, *range(len(VIEW_WORDS))])
def test_every_wording_and_view_survives(wording, view):
    for spec in (BALL, STACK, SceneSpec("car", "orange", "table", "orange")):
        assert parse_caption(caption(spec, view, wording)) == (spec, view)


@pytest.mark.parametrize(
    "text",
    [
        "A RED BALL, BACK VIEW.",
        "  a  red ball;back-view",
        "red ball back view",
        "'a red ball' (back view)!",
    ],
)
def test_case_and_punctuation_do_not_matter(text):
    assert parse_caption(text) == (BALL, VIEW_WORDS.index("back view"))


def test_an_unknown_word_is_named_with_its_neighbours():
    with pytest.raises(CaptionError) as caught:
        parse_caption("a red snowmen")
    message = str(caught.value)
    assert "'snowmen'" in message
    assert "snowman" in message
    assert "python -m sdsjax.main --list" in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a colour and a kind"),
        ("a ball", "a colour and a kind"),
        ("red", "a colour and a kind"),
        ("a red ball on", "a colour and a kind"),
        ("a red blue ball", "'red' does not belong"),
        ("a ball red cube", "'ball' does not belong"),
        ("a red ball on a blue cat", "nothing can stand on a cat"),
        ("a red ball on a blue cube on a green table", "'blue' does not belong"),
    ],
)
def test_known_words_in_a_wrong_order_are_refused(text, complaint):
    with pytest.raises(CaptionError, match=re.escape(complaint)) as caught:
        parse_caption(text)
    assert "\n" not in str(caught.value)


def test_the_vocabulary_is_what_captions_use():
    used = set()
    for i, spec in enumerate(all_specs()):
        used |= set(re.findall(r"[a-z0-9]+", caption(spec, i % 5, wording=i)))
    assert used == set(vocabulary())
    assert len(vocabulary()) == len(set(vocabulary()))


def test_all_specs_are_distinct_and_complete():
    specs = all_specs()
    assert len(set(specs)) == len(specs)
    single = len(KINDS) * len(COLORS)
    assert len(specs) == single + single * len(BASES) * (len(COLORS) - 1)


def test_the_held_out_pairs_are_fixed_combinations_of_trained_words():
    train, held = pair_split()
    assert pair_split.__wrapped__() == (train, held)
    assert not set(train) & set(held)
    assert len(held) == (len(train) + len(held)) // 10
    for field in range(4):
        assert {spec[field] for spec in held} <= {spec[field] for spec in train}
