"""Ranks, their bootstrap and groups, against hand-made and enumerated cases."""

from itertools import product

import numpy as np
import pytest

from sdsjax.studies.ranks import Ranking, bootstrap_ranks, groups, ranks


def test_ranks_begin_at_the_best_and_share_ties():
    np.testing.assert_array_equal(ranks(np.array([0.2, 0.9, 0.5])), [3, 1, 2])
    np.testing.assert_array_equal(ranks(np.array([0.5, 0.9, 0.5])), [2.5, 1, 2.5])


def test_resamples_are_those_of_all_draws():
    # three prompts, two of which are drawn: nine draws, counted by hand
    scores = np.array([[1.0, 0.0, 0.2], [0.0, 0.4, 0.1]])
    apart = scores[0] - scores[1]  # 1, -.4, .1
    sums = [apart[i] + apart[j] for i, j in product(range(3), repeat=2)]
    wanted = np.mean([s > 0 for s in sums])
    found = bootstrap_ranks(scores, resamples=40_000)
    assert wanted == pytest.approx(6 / 9)
    assert found.better[0, 1] == pytest.approx(wanted, abs=0.01)
    np.testing.assert_allclose(found.better + found.better.T, 1.0)
    assert not found.certain(0, 1)


def test_a_spread_over_prompts_that_all_share_is_no_doubt():
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=8)
    scores = np.array(
        [prompts + 0.1 * i + 0.001 * rng.normal(size=8) for i in range(3)]
    )
    found = bootstrap_ranks(scores)
    np.testing.assert_array_equal(found.rank, [3, 2, 1])
    np.testing.assert_array_equal(found.low, found.high)
    assert found.certain_pairs() == 3
    assert groups(found) == [[2], [1], [0]]
    again = bootstrap_ranks(scores)
    np.testing.assert_array_equal(found.better, again.better)


def test_equal_methods_are_seldom_told_apart():
    # on 8 prompts; the docstring says .05
    rng = np.random.default_rng(2)
    wrong = sum(
        bootstrap_ranks(rng.normal(size=(2, 8)), resamples=2000).certain(0, 1)
        for _ in range(300)
    )
    assert wrong / 300 < 0.08


def test_ties_are_halves():
    found = bootstrap_ranks(np.ones((2, 4)), resamples=10)
    assert found.better[0, 1] == 0.5
    np.testing.assert_array_equal(found.rank, [1.5, 1.5])


def test_groups_are_runs_without_a_certain_pair():
    # 0 and 1, 1 and 2 are open, 0 and 2 certain; 3 is apart from all
    better = np.array(
        [
            [0.5, 0.8, 1.0, 1.0],
            [0.2, 0.5, 0.7, 1.0],
            [0.0, 0.3, 0.5, 1.0],
            [0.0, 0.0, 0.0, 0.5],
        ]
    )
    place = np.arange(1.0, 5.0)
    assert groups(Ranking(better, place, place, place)) == [[0, 1], [1, 2], [3]]


def test_what_cannot_be_ranked_is_said():
    with pytest.raises(ValueError, match="at least two prompts"):
        bootstrap_ranks(np.ones((2, 1)))
    with pytest.raises(ValueError, match="finite"):
        bootstrap_ranks(np.array([[0.0, np.nan]] * 2))
