"""draw_targets: what is drawn, by what odds, and that the library and the graph draw the same."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError, IdRangeError
from tfps.ops import library
from tfps.ops.draw_targets import Negatives, alias_table, draw_targets


def odds(table):
    """How likely each row is drawn by an alias table, worked out from what the table says."""
    kept, other = table.astype(np.uint64) >> np.uint64(32), table & 0xFFFFFFFF
    share = kept / 2.0**32 / len(table)
    return share + np.bincount(other, 1 / len(table) - share, minlength=len(table))


@pytest.mark.parametrize("weights", [[1], [3, 1], [0, 5, 0, 0], [1, 1, 1], 1 / np.arange(1, 10_001) ** 0.75])
def test_an_alias_table_has_the_odds_of_its_weights(weights):
    expected = np.asarray(weights) / np.sum(weights)
    np.testing.assert_allclose(odds(alias_table(weights)), expected, atol=1e-9)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [np.nan, 1], [[1, 2]]])
def test_weights_that_are_none(weights):
    with pytest.raises(ConfigError, match=r"`weights`.*Received"):
        alias_table(weights)


def test_draws_by_the_odds_but_never_the_positive(way, rng):
    weights = np.array([8, 4, 2, 1, 1])
    negatives = Negatives(5, 3, alias_table(weights))
    targets = draw_targets(np.full(20_000, 1), negatives, [5, 6]).numpy()
    assert targets.shape == (20_000, 4) and targets.dtype == np.int64 and (targets[:, 0] == 1).all()
    found = np.bincount(targets[:, 1:].ravel(), minlength=5) / 60_000
    np.testing.assert_allclose(found, weights * [1, 0, 1, 1, 1] / 12, atol=0.01)


@pytest.mark.parametrize("rows", [2, 7, 1000, 2**31])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_graph_draws_what_the_library_draws(monkeypatch, rng, rows, weighted):
    if weighted and rows > 1000:
        pytest.skip("as many weights")
    negatives = Negatives(rows, 4, alias_table(rng.random(rows)) if weighted else None)
    positives = rng.integers(0, rows, 500).astype(np.int32)
    assert library.available(), "the C++ ops are not built: run `make test`"
    for seed in ([0, 0], [-1, 2**62], [2**40, -(2**63)]):
        monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
        expected = draw_targets(positives, negatives, seed)
        monkeypatch.setenv("TFPS_DISABLE_OPS", "1")
        np.testing.assert_array_equal(draw_targets(positives, negatives, seed), expected)
        assert np.all((expected.numpy() >= 0) & (expected.numpy() < rows))


def test_seeds_and_places_draw_differently(way):
    drawn = [draw_targets(np.zeros(9, int), Negatives(2**30, 2), seed).numpy() for seed in ([0, 0], [0, 1], [1, 0])]
    assert len(np.unique([d[:, 1:] for d in drawn])) == 3 * 9 * 2


def test_no_pairs(way):
    assert draw_targets(np.zeros(0, int), Negatives(3, 2), [0, 0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 5), "`rows`.*Received: 1"),
        ((2**31 + 1, 5), "`rows`"),
        ((9, 0), "`count`.*Received: 0"),
        ((9, 1, [1]), "`alias"),
    ],
)
def test_negatives_that_cannot_be(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Negatives(*arguments)


@pytest.mark.parametrize("positive", [5, -1, 2**63 - 1, -(2**63)])
def test_a_positive_out_of_range_is_an_error(way, positive):
    message = rf"'contexts' must be at least 0 and below 5\. Received: {positive}, at ids\[1\]"
    with pytest.raises(IdRangeError, match=message):
        draw_targets([0, positive], Negatives(5, 1), [0, 0])


def test_an_alias_out_of_range_is_an_error(monkeypatch):
    monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="rows below 3.*Received: 9 in column 1"):
        draw_targets([0], Negatives(3, 1, np.array([0, 9, 1])), [0, 0])
