"""tfps.text: which places of a text are kept, and which pairs are drawn from it."""

import numpy as np
import pytest

from tfps.errors import ConfigError
from tfps.text import keep_probabilities, neighbour_groups, neighbour_pairs


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


def words_around(sentences, center, width):
    """The neighbours of the word at (sentence, position), left of it and right of it."""
    sentence, at = sentences[center[0]], center[1]
    return list(sentence[max(0, at - width) : at]), list(sentence[at + 1 : at + 1 + width])


def test_a_group_is_a_word_with_the_words_around_it():
    """In one part of the text: every word once, in order, with a window of some width that no sentence's end is in."""
    random = np.random.default_rng(3)
    sentences = [random.integers(0, 50, random.integers(1, 12)) for _ in range(60)]
    tokens = np.concatenate([np.append(sentence, -1) for sentence in sentences])
    ((centers, contexts),) = neighbour_groups(tokens, window=3, batch=len(tokens), steps=1)
    assert centers.dtype == contexts.dtype == np.int32
    np.testing.assert_array_equal(contexts, np.concatenate(sentences))
    places, seen = [(s, at) for s, sentence in enumerate(sentences) for at in range(len(sentence))], []
    for place, found in zip(places, centers.numpy(), strict=True):
        both = [list(side[side >= 0]) for side in np.split(found, 2)]
        fitting = [width for width in (1, 2, 3) if both == list(words_around(sentences, place, width))]
        assert fitting
        seen += fitting if len(fitting) == 1 else []
    assert set(seen) == {1, 2, 3} and min(np.bincount(seen)[1:]) > 20


def test_a_pass_has_each_word_once_and_another_order_of_parts_than_the_next():
    batches = [contexts.numpy() for _, contexts in neighbour_groups(np.arange(1000), 2, 30, 68)]
    first, second = np.concatenate(batches[:34]), np.concatenate(batches[34:])
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(np.sort(second), np.arange(1000))
    assert (first != second).any() and (first != np.arange(1000)).any()


def test_words_are_dropped_anew_before_their_neighbours_are_found():
    tokens = np.tile([0, 1, 2], 2000)
    first, second = neighbour_groups(tokens, 1, 6000, 2, keep=[0, 0.5, 1])
    counts = np.bincount(first[1])
    assert counts[0] == 0 and 850 < counts[1] < 1150 and counts[2] == 2000
    assert (np.bincount(second[1])[1:] != counts[1:]).any()
    # With all 0 and some 1 gone a 2 has another 2 beside it.
    assert np.isin([2, 2], first[0].numpy()[first[1].numpy() == 2]).all()
    assert not (first[0].numpy() == 0).any()


def test_a_part_may_have_no_words():
    for tokens, keep in [([-1, -1], None), ([0, 0], [0.0])]:
        ((centers, contexts),) = neighbour_groups(tokens, 2, 2, 1, keep=keep)
        assert centers.shape == (0, 4) and contexts.shape == (0,)


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
        (lambda: neighbour_groups([], 1, 9, 1), r"`tokens`.*shape \(0,\)"),
        (lambda: neighbour_groups([0.5], 1, 9, 1), "`tokens`.*float64"),
        (lambda: neighbour_groups([-2], 1, 9, 1), "`tokens` must be from -1 .*from -2"),
        (lambda: neighbour_groups([1], 0, 9, 1), "`window`.*Received: 0"),
        (lambda: neighbour_groups([1], 1, 0, 1), "`batch`.*Received: 0"),
        (lambda: neighbour_groups([1], 1, 9, -1), "`steps`.*Received: -1"),
        (lambda: neighbour_groups([1], 1, 9, 1, "x"), "`seed`.*'x'"),
        (
            lambda: neighbour_groups([1], 1, 9, 1, 2**70),
            "`seed` must be an integer from .* Received: 1180591620717411303424",
        ),
        (lambda: neighbour_pairs([1, 2, 3], 1, 9, 1, -(2**63) - 1), "`seed` must be an integer from "),
        (lambda: neighbour_groups([-1], 1, 9, 1, keep=[]), "`keep` must have a number for each id, 1 or more"),
        (lambda: neighbour_groups([1], 1, 9, 1, keep=[1]), r"`keep`.*2 or more. Received: shape \(1,\)"),
        (lambda: neighbour_groups([1], 1, 9, 1, keep=[1, 1.5]), "`keep` must be from 0 to 1. .*to 1.5"),
        (lambda: neighbour_groups([1], 1, 9, 1, keep=[1, float("nan")]), "`keep` must be from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
