"""Captions wrong by one word: wrong in that alone, and never true of the picture."""

import numpy as np
import pytest

from sdsjax.toybox.world.captions import all_specs, caption, parse_caption
from sdsjax.toybox.world.contrasts import ASPECTS, Said, truth, wrong
from sdsjax.toybox.world.objects import DIRECTED_KINDS
from sdsjax.toybox.world.scene import SceneSpec
from sdsjax.toybox.world.views import BACK, FRONT, OVERHEAD

MUG, BALL = SceneSpec("mug", "red"), SceneSpec("ball", "red")


def said(count=300):
    rng, specs = np.random.default_rng(0), all_specs()
    chosen = [specs[i] for i in rng.integers(len(specs), size=count // 2)]
    chosen += [specs[i] for i in rng.integers(270, size=count - count // 2)]
    return [Said(spec, int(rng.integers(5))) for spec in chosen]


def kinds(spec):
    return [spec.kind, spec.base_kind]


def colors(spec):
    return [spec.color, spec.base_color]


def test_one_aspect_changes_and_the_rest_stays():
    rng, swapped = np.random.default_rng(1), 0
    for own in said():
        for aspect in ASPECTS:
            other = wrong(rng, own, aspect)
            if aspect == "view" and own.spec.kind not in DIRECTED_KINDS:
                assert other is None
                continue
            assert other != own
            assert not truth([own], [other])[0, 0]
            assert parse_caption(caption(*other)) == other
            assert (kinds(other.spec) != kinds(own.spec)) == (aspect == "object")
            assert (colors(other.spec) != colors(own.spec)) == (aspect == "color")
            assert (other.view != own.view) == (aspect == "view")
            swapped += other.spec.color == own.spec.base_color is not None
    assert swapped > 10
    assert wrong(rng, Said(MUG, None), "view") is None
    with pytest.raises(ValueError, match="choose one of object, color, view"):
        wrong(rng, Said(MUG, FRONT), "size")


def test_what_is_true_of_a_picture():
    pictures = [Said(MUG, FRONT), Said(BALL, BACK), Said(BALL, OVERHEAD)]
    texts = [Said(MUG, FRONT), Said(MUG, BACK), Said(MUG, None), None]
    texts += [Said(BALL, FRONT), Said(BALL, OVERHEAD), Said(BALL, None)]
    want = [[1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(truth(pictures, texts), np.asarray(want, bool))
