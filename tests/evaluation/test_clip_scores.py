"""CLIP similarity and R-precision: matrices by hand, and the scorer's batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.evaluation import clip_scores
from sdsjax.evaluation.caption_lists import digest, toybox_captions, with_prompt
from sdsjax.evaluation.clip_scores import ClipScorer, score_views
from sdsjax.models.loading.companions import load_clip_scorer
from sdsjax.models.vision.clip_scorer import clip_distance
from sdsjax.toybox.world.captions import CaptionError, parse_caption


def test_r_precision_of_matrices_by_hand():
    cosines = np.array(
        [[0.9, 0.1, 0.2], [0.3, 0.4, 0.1], [0.2, 0.1, 0.1], [-1, -2, -3]]
    )
    found = score_views(cosines, 0)
    assert found.r_precision == 3 / 4
    assert found.similarity == pytest.approx((0.9 + 0.3 + 0.2 - 1) / 4)
    assert found.best == [0, 1, 0, 0]
    assert found.similarities == [0.9, 0.3, 0.2, -1.0]
    assert score_views(cosines, 1).r_precision == 1 / 4
    assert score_views(cosines, 2).r_precision == 0


def test_a_scorer_that_cannot_tell_scores_0_and_a_single_caption_nothing():
    assert score_views(np.full((5, 4), 0.3), 2).r_precision == 0
    alone = score_views(np.array([[0.5], [0.7]]), 0)
    assert alone.r_precision is None
    assert alone.similarity == pytest.approx(0.6)


def test_more_captions_never_raise_r_precision():
    rng = np.random.default_rng(0)
    cosines = rng.normal(size=(16, 30))
    shares = [score_views(cosines[:, :n], 0).r_precision for n in range(2, 31)]
    assert sorted(shares, reverse=True) == shares
    # nor does the order of the others matter
    mixed = np.concatenate([cosines[:, :1], rng.permuted(cosines[:, 1:], axis=1)], 1)
    assert score_views(mixed, 0).r_precision == shares[-1]


@pytest.mark.slow
def test_the_scorer_says_1_minus_the_distance_whatever_the_batches(monkeypatch):
    monkeypatch.setattr(clip_scores, "PICTURES", 4)
    monkeypatch.setattr(clip_scores, "TEXTS", 3)
    network, tokenizer = load_clip_scorer("toybox-clip")
    scorer = ClipScorer(network, tokenizer)
    assert scorer.size == 64
    rgb = np.asarray(jax.random.uniform(jax.random.key(0), (6, 64, 64, 3)))
    texts = ["a red ball", "a blue mug", "a green chair", "a red mug", "a red ball"]
    want = 1.0 - clip_distance(network, tokenizer)(jnp.asarray(rgb), texts)
    found = scorer.embed_pictures(rgb) @ scorer.embed_texts(texts).T
    np.testing.assert_allclose(found, want, atol=2e-6)
    score = scorer.score(rgb, "a blue mug", texts[:4])
    assert score.similarity == pytest.approx(float(np.mean(want[:, 1])), abs=2e-6)
    assert score.best == np.argmax(want[:, :4], axis=1).tolist()


def test_the_toybox_lists_hold_the_prompt_first_and_no_scene_twice():
    for prompt, count in (("the red ball", 270), ("a red ball on a blue cube", 318)):
        captions = toybox_captions(prompt)
        assert captions[0] == prompt
        specs = [parse_caption(text)[0] for text in captions]
        # 270 singles; of a pair itself and 29 kinds, 8 colours, 2 bases, 8 colours
        assert len(set(specs)) == len(captions) == count
    with pytest.raises(CaptionError):
        toybox_captions("a hamburger")
    assert with_prompt("b", ["a", "b", "a"]) == ["b", "a"]
    assert digest(["a", "b"]) == digest(["b", "a", "b"]) != digest(["a", "c"])
