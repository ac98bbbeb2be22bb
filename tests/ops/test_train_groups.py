"""train_groups against a loop in numpy that says what it does, in both of its forms."""

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.test_train_pairs import DECAYED, HYPER, example, update
from tfps.errors import ConfigError, UnsupportedError
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.train_groups import train_groups
from tfps.ops.train_pairs import train_pairs


def brute_force_groups(rule, matrices, centers, sizes, targets, hyper):
    matrices, loss, begin = [matrix.astype(np.float64) for matrix in matrices], 0.0, 0
    before = [matrix.copy() for matrix in matrices]
    for size, of_targets in zip(sizes, targets, strict=True):
        of_centers, begin = centers[begin : begin + size], begin + size
        center_rows, target_rows = matrices[0][of_centers], matrices[0][of_targets]
        scores, labels = center_rows @ target_rows.T, np.arange(len(of_targets)) == 0
        loss += np.log1p(np.exp(np.where(labels, -scores, scores))).sum()
        slopes = 1 / (1 + np.exp(-scores)) - labels
        for target, gradient in zip(of_targets, slopes.T @ center_rows, strict=True):
            if size:
                update(rule, matrices, target, gradient, hyper)
        for center, gradient in zip(of_centers, slopes @ target_rows, strict=True):
            update(rule, matrices, center, gradient, hyper)
    return [after - at_first for after, at_first in zip(matrices, before, strict=True)], loss


def some_groups(rng, rule, dim, count, width):
    matrices, centers, targets = example(rng, rule, dim, count, width)
    sizes = []
    while sum(sizes) < count:
        sizes.append(int(rng.integers(0, min(6, count - sum(sizes)) + 1)))
    return matrices, centers, np.array(sizes, np.int32), targets[: len(sizes)]


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
@pytest.mark.parametrize("hyper", [HYPER, DECAYED], ids=["plain", "decayed"])
@pytest.mark.parametrize(("dim", "count", "width"), [(1, 1, 1), (8, 60, 6), (100, 60, 6), (150, 30, 3), (5, 0, 6)])
def test_equals_brute_force(way, rng, rule, hyper, dim, count, width):
    matrices, centers, sizes, targets = some_groups(rng, rule, dim, count, width)
    targets = np.resize(targets, (len(sizes), width))
    deltas, loss = train_groups(ROW_RULES[rule], matrices, centers, sizes, targets, hyper[rule])
    expected, expected_loss = brute_force_groups(rule, matrices, centers, sizes, targets, hyper[rule])
    assert loss.dtype == tf.float64 and len(deltas) == len(matrices)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for got, wanted in zip(deltas, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_a_group_of_one_center_is_a_pair(way, rng, rule):
    """As long as no row is named twice by a pair."""
    matrices, centers, _ = example(rng, rule, 12, 20, 3, rows=20)
    centers, targets = centers % 5, np.array([rng.permutation(15)[:3] + 5 for _ in range(20)], np.int32)
    groups, loss = train_groups(ROW_RULES[rule], matrices, centers, np.ones(20, np.int32), targets, HYPER[rule])
    pairs, expected_loss = train_pairs(ROW_RULES[rule], matrices, centers, targets, HYPER[rule])
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for got, wanted in zip(groups, pairs, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-6)


def test_a_row_twice_in_a_group_gets_both_updates_of_its_first_score(way):
    rows = np.array([[1.0], [0.0]], np.float32)
    twice, _ = train_groups(ROW_RULES["sgd"], [rows], [0, 0], [2], [[1, 1]], [1.0, 0.0])
    # All four scores are 0: the slopes of the target are -1/2 of each center as positive, and 1/2 as negative.
    np.testing.assert_allclose(twice[0], [[0.0], [0.0]], atol=1e-7)
    positive, _ = train_groups(ROW_RULES["sgd"], [rows], [0, 0], [2], [[1]], [1.0, 0.0])
    np.testing.assert_allclose(positive[0], [[0.0], [1.0]], atol=1e-7)


def test_a_loss_that_is_no_number_is_seen(way, rng):
    matrices, centers, sizes, targets = some_groups(rng, "sgd", 8, 20, 3)
    matrices[0][:] = np.nan
    deltas, loss = train_groups(ROW_RULES["sgd"], matrices, centers, sizes, targets, HYPER["sgd"])
    assert np.isnan(loss) and np.isnan(deltas[0]).any()


def test_a_loss_has_a_limit_for_each_target(way):
    rows = np.array([[10.0, 1.0], [10.0, 1.0], [-10.0, 1.0]], np.float32)
    _, loss = train_groups(ROW_RULES["sgd"], [rows], [0, 0], [2], [[2, *[1] * 11]], [0.0, 0.0])
    np.testing.assert_allclose(loss, 2 * 12 * 87.33654, rtol=1e-6)


@pytest.mark.parametrize(
    ("centers", "sizes", "targets", "message"),
    [
        ([0, 9], [2], [[0]], "below the rows, 9. Received: center 9 as element 1"),
        ([0, -1], [2], [[0]], "Received: center -1 as element 1"),
        ([0, 1], [2], [[9]], "Received: target 9 as element 0"),
        ([0, 1], [1], [[0]], "`sizes` must come to the number of centers, 2. Received: 1"),
        ([0, 1], [3, -1], [[0], [0]], "`sizes` must be at least 0. Received: -1 for group 1"),
        ([0, 1], [1, 1], [[0]], "a row for each size"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch, rng, centers, sizes, targets, message):
    monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
    matrices, _, _ = example(rng, "sgd", 4, 1, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        train_groups(ROW_RULES["sgd"], matrices, centers, sizes, targets, HYPER["sgd"])


def test_what_does_not_fit_is_an_error(way, rng):
    matrices, centers, sizes, targets = some_groups(rng, "sgd", 4, 5, 2)
    with pytest.raises(UnsupportedError, match="Received: 'adam'. Valid: .'sgd', 'adagrad'"):
        train_groups(ROW_RULES["adam"], matrices, centers, sizes, targets, HYPER["sgd"])
    with pytest.raises(ConfigError, match="Received: 1 matrices"):
        train_groups(ROW_RULES["adagrad"], matrices, centers, sizes, targets, HYPER["adagrad"])
    with pytest.raises(tf.errors.InvalidArgumentError):
        train_groups(ROW_RULES["sgd"], matrices, centers[:4], sizes, targets, HYPER["sgd"])
