"""The statistics of experiments/recursive_gradient on numbers that are known."""

import numpy as np
from experiment_folder import load

run = load("recursive_gradient")
chains = run.describe.__globals__


def test_means_apart_and_variances_are_without_bias():
    """d ~ N((1, 0, ..), I / 4), G ~ N(0 + 2, I): averaged over many small draws."""
    random, d, found = np.random.default_rng(0), 6, []
    for _ in range(400):
        plain = 2.0 + random.normal(size=(12, d))
        carried = 2.0 + 0.5 * random.normal(size=(5, d))
        carried[:, 0] += 1.0
        row = chains["describe"](chains["Chains"](plain, {"a": carried}, 0.1))
        one = row["options"]["a"]
        found.append((
            row["signal"][0], row["plain"][0], one["variance"][0],
            one["away"][0] * row["signal"][0],
        ))  # fmt: skip
    truth = np.array([4.0 * d, d, d / 4, 1.0])
    found = np.array(found)
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - truth) < 4 * error).all(), (found.mean(0), error)


def test_the_distance_without_one_chain_is_that_of_the_others():
    random = np.random.default_rng(1)
    own, plain = random.normal(size=(4, 3)), random.normal(size=(5, 3))
    value, left = chains["away_from"](own, plain)
    pairs = [a @ b for i, a in enumerate(own) for j, b in enumerate(own) if i != j]
    other = [a @ b for i, a in enumerate(plain) for j, b in enumerate(plain) if i != j]
    by_hand = np.mean(pairs) - 2 * np.mean(own @ plain.T) + np.mean(other)
    np.testing.assert_allclose(value, by_hand)
    for index in range(4):
        without, _ = chains["away_from"](np.delete(own, index, 0), plain)
        np.testing.assert_allclose(left[index], without)


def test_what_is_carried_pays_for_two_gradients():
    row = {"plain": [8.0, 0.8], "options": {}}
    for name in ("momentum .1", "recursive, gain .1"):
        row["options"][name] = {"variance": [2.0, 0.0]}
    assert run.worth(row, "momentum .1") == [4.0, 0.4]
    assert run.worth(row, "recursive, gain .1") == [2.0, 0.2]
