"""Free rows and who moves into them, by hand."""

import jax
import numpy as np

from sdsjax.representations.gaussians.density_control import row_placement

place_copies = jax.jit(row_placement.place_copies)


def placed(alive, wanted, score):
    made = place_copies(
        np.array(alive, bool), np.array(wanted, bool), np.float32(score)
    )
    return [np.asarray(a).tolist() for a in made]


def test_copies_fill_free_rows_in_order_of_score():
    source, granted, new, short = placed(
        [1, 0, 1, 1, 0, 0], [1, 0, 0, 1, 0, 0], [1.0, 9, 9, 2.0, 9, 9]
    )
    # row 3 scores higher than row 0: it takes the first free row
    assert source == [0, 3, 2, 3, 0, 5]
    assert granted == [True, False, False, True, False, False]
    assert new == [False, True, False, False, True, False]
    assert short == 0


def test_the_highest_scores_go_first_and_the_rest_is_reported():
    source, granted, new, short = placed(
        [1, 1, 1, 0, 1], [1, 1, 1, 0, 0], [1.0, 3.0, 2.0, 0.0, 9.0]
    )
    assert source == [0, 1, 2, 1, 4]
    assert granted == [False, True, False, False, False]
    assert new == [False, False, False, True, False]
    assert short == 2


def test_nothing_wanted_and_nothing_free_move_nothing():
    for alive, wanted, missing in (([1, 0, 0], [0] * 3, 0), ([1] * 3, [1] * 3, 3)):
        source, granted, new, short = placed(alive, wanted, [1.0, 2.0, 3.0])
        assert source == [0, 1, 2]
        assert not any(granted)
        assert not any(new)
        assert short == missing


def test_first_free_rows():
    first_free = jax.jit(row_placement.first_free)
    alive = np.array([1, 0, 1, 0, 0], bool)
    for count, want in ((0, [0] * 5), (2, [0, 1, 0, 1, 0]), (9, [0, 1, 0, 1, 1])):
        got = first_free(alive, np.int32(count))
        np.testing.assert_array_equal(got, np.array(want, bool))


def test_rows_are_drawn_in_proportion_to_their_weight():
    weight = np.zeros(20_000, np.float32)
    weight[[3, 7, 19_998]] = 1.0, 2.0, 5.0
    drawn = np.asarray(jax.jit(row_placement.draw_rows)(jax.random.key(0), weight))
    assert set(drawn.tolist()) == {3, 7, 19_998}
    share = np.array([(drawn == i).mean() for i in (3, 7, 19_998)])
    # four standard deviations of a share of 20 000 draws
    np.testing.assert_allclose(share, [1 / 8, 2 / 8, 5 / 8], atol=0.015)
