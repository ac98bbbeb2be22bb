"""tfps.text: which places of a text are kept, and which pairs are drawn from it."""

import numpy as np
import pytest

from tfps.errors import ConfigError
from tfps.text import keep_probabilities, neighbour_pairs


def test_frequent_words_are_thinned_by_the_formula():
    kept = keep_probabilities([500, 499, 1, 0], threshold=0.1)
    np.testing.assert_allclose(kept, [0.2**0.5 + 0.2, (100 / 499) ** 0.5 + 100 / 499, 1, 1])


def test_a_neighbour_is_near_and_the_nearer_the_likelier():
    for centers, contexts in neighbour_pairs(np.arange(10_000) % 14, window=5, batch=50_000, steps=3):
        gap = (contexts.numpy() - centers.numpy()) % 14
        # 5 to 1 in proportion on each side; 0.006 is over three standard deviations of a share of that many draws.
        expected = np.array([0, 5, 4, 3, 2, 1, 0, 0, 0, 1, 2, 3, 4, 5]) / 30
        np.testing.assert_allclose(np.bincount(gap, minlength=14) / 50_000, expected, atol=0.006)
        assert (np.bincount(gap, minlength=14) > 0).tolist() == (expected > 0).tolist()
        assert centers.shape == contexts.shape == (50_000,) and centers.dtype == contexts.dtype == np.int32


def test_steps_and_seeds_draw_differently_and_the_same_again():
    draws = [[c.numpy() for c, _ in neighbour_pairs(np.arange(900), 2, 50, 2, seed)] for seed in (0, 0, 1)]
    assert len(np.unique([draws[0][0], draws[0][1], draws[2][0]], axis=0)) == 3
    np.testing.assert_array_equal(draws[0], draws[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keep_probabilities([1], 0), "`threshold` must be a number above 0. Received: 0"),
        (lambda: keep_probabilities([1], float("nan")), "`threshold`.*nan"),
        (lambda: keep_probabilities([0, 0]), "`counts`.*not all 0"),
        (lambda: keep_probabilities([9, -5]), "`counts`.*from -5"),
        (lambda: neighbour_pairs([1] * 10, 5, 9, 1), r"`tokens`.*11.*Received: int64 of shape \(10,\)"),
        (lambda: neighbour_pairs([[1] * 10] * 10, 1, 9, 1), r"`tokens`.*shape \(10, 10\)"),
        (lambda: neighbour_pairs([0.5] * 10, 1, 9, 1), "`tokens`.*float64"),
        (lambda: neighbour_pairs([2**33] * 10, 1, 9, 1), "`tokens` must be from 0 to 2147483647"),
        (lambda: neighbour_pairs([1] * 10, 0, 9, 1), "`window`.*Received: 0"),
        (lambda: neighbour_pairs([1] * 10, 1.5, 9, 1), "`window`.*Received: 1.5"),
        (lambda: neighbour_pairs([1] * 10, 1, 0, 1), "`batch`.*Received: 0"),
        (lambda: neighbour_pairs([1] * 10, 1, 9, -1), "`steps`.*Received: -1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
