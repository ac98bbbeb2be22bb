"""tfps.text: which places of a text are kept, and which pairs are drawn from it."""

import numpy as np
import pytest

from tfps.errors import ConfigError
from tfps.text import keep_probabilities, neighbour_pairs


def test_frequent_words_are_thinned_by_the_formula():
    kept = keep_probabilities([500, 499, 1, 0], threshold=0.1)
    np.testing.assert_allclose(kept, [0.2**0.5 + 0.2, (100 / 499) ** 0.5 + 100 / 499, 1, 1])


def test_a_neighbour_is_near_and_the_nearer_the_likelier():
    for centers, contexts in neighbour_pairs(np.arange(10_000) % 14, window=5, batch=500, steps=3):
        gap = (contexts.numpy() - centers.numpy()) % 14
        assert set(gap) == {1, 2, 3, 4, 5, 9, 10, 11, 12, 13}
        assert np.mean((gap == 1) | (gap == 13)) > 1.5 * np.mean((gap == 5) | (gap == 9))
        assert centers.shape == contexts.shape == (500,) and centers.dtype == contexts.dtype == np.int32


def test_steps_and_seeds_draw_differently_and_the_same_again():
    draws = [[c.numpy() for c, _ in neighbour_pairs(np.arange(900), 2, 50, 2, seed)] for seed in (0, 0, 1)]
    assert len(np.unique([draws[0][0], draws[0][1], draws[2][0]], axis=0)) == 3
    np.testing.assert_array_equal(draws[0], draws[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keep_probabilities([1], 0), "`threshold` must be above 0. Received: 0"),
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
