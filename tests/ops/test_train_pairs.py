"""train_pairs against a loop in numpy that says what it does, in both of its forms."""

import numpy as np
import pytest
import tensorflow as tf

from tfps.errors import ConfigError, UnsupportedError
from tfps.ops.row_rules import ROW_RULES
from tfps.ops.train_pairs import train_pairs

HYPER = {"sgd": [0.1, 0.0], "adagrad": [0.2, 1e-7, 0.0]}
DECAYED = {"sgd": [0.1, 0.05], "adagrad": [0.2, 1e-7, 0.05]}


def update(rule, matrices, row, gradient, hyper):
    rows = matrices[0]
    rows[row] -= hyper[-1] * rows[row]
    if rule == "adagrad":
        matrices[1][row] += gradient**2
        gradient = gradient / np.sqrt(matrices[1][row] + hyper[1])
    rows[row] -= hyper[0] * gradient


def brute_force(rule, matrices, centers, targets, hyper):
    matrices, loss = [matrix.astype(np.float64) for matrix in matrices], 0.0
    before = [matrix.copy() for matrix in matrices]
    for center, of_pair in zip(centers, targets, strict=True):
        c, gradient = matrices[0][center].copy(), 0
        for k, target in enumerate(of_pair):
            t = matrices[0][target].copy()
            score = c @ t
            slope = 1 / (1 + np.exp(-score)) - (k == 0)
            loss += np.log1p(np.exp(-score if k == 0 else score))
            gradient = gradient + slope * t
            update(rule, matrices, target, slope * c, hyper)
        update(rule, matrices, center, gradient, hyper)
    return [after - at_first for after, at_first in zip(matrices, before, strict=True)], loss


def example(rng, rule, dim, count, width, rows=9):
    matrices = [rng.normal(size=(rows, dim)).astype(np.float32) / np.float32(np.sqrt(dim))]
    if rule == "adagrad":
        matrices.append((0.1 + rng.random((rows, dim))).astype(np.float32))
    return (
        matrices,
        rng.integers(0, rows, count).astype(np.int32),
        rng.integers(0, rows, (count, width)).astype(np.int32),
    )


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
@pytest.mark.parametrize("hyper", [HYPER, DECAYED], ids=["plain", "decayed"])
@pytest.mark.parametrize(("dim", "count", "width"), [(1, 1, 1), (8, 60, 6), (100, 60, 6), (150, 30, 3), (5, 0, 6)])
def test_equals_brute_force(way, rng, rule, hyper, dim, count, width):
    matrices, centers, targets = example(rng, rule, dim, count, width)
    deltas, loss = train_pairs(ROW_RULES[rule], matrices, centers, targets, hyper[rule])
    expected, expected_loss = brute_force(rule, matrices, centers, targets, hyper[rule])
    assert loss.dtype == tf.float64 and len(deltas) == len(matrices)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for got, wanted in zip(deltas, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-5)


def test_pairs_follow_one_another(way):
    """A target that a pair has twice is updated twice, the second time as the first has left it."""
    rows = np.array([[1.0], [0.0]], np.float32)
    once, _ = train_pairs(ROW_RULES["sgd"], [rows], [0], [[1]], [1.0, 0.0])
    np.testing.assert_allclose(once[0], [[0.0], [0.5]])
    negative, _ = train_pairs(ROW_RULES["sgd"], [rows], [0], [[1, 1]], [1.0, 0.0])
    slope = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(negative[0], [[-slope * 0.5], [0.5 - slope]], rtol=1e-6)


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_a_loss_that_is_no_number_is_seen(way, rng, rule):
    """And a model that has run away with it, by TerminateOnNaN."""
    matrices, centers, targets = example(rng, rule, 8, 20, 3)
    matrices[0][:] = np.nan
    deltas, loss = train_pairs(ROW_RULES[rule], matrices, centers, targets, HYPER[rule])
    assert np.isnan(loss) and np.isnan(deltas[0]).any()


def test_a_loss_has_a_limit_for_each_target(way):
    """The probabilities of twelve targets, each the smallest float, are beyond a double."""
    rows = np.array([[10.0, 1.0], [10.0, 1.0], [-10.0, 1.0]], np.float32)
    _, loss = train_pairs(ROW_RULES["sgd"], [rows], [0, 0], [[2, *[1] * 11]] * 2, [0.0, 0.0])
    np.testing.assert_allclose(loss, 2 * 12 * 87.33654, rtol=1e-6)


def test_inputs_stay_as_they_are(way, rng):
    matrices, centers, targets = example(rng, "adagrad", 16, 20, 3)
    tensors = [tf.constant(matrix) for matrix in matrices]
    train_pairs(ROW_RULES["adagrad"], tensors, centers, targets, HYPER["adagrad"])
    for tensor, matrix in zip(tensors, matrices, strict=True):
        np.testing.assert_array_equal(tensor, matrix)


@pytest.mark.parametrize(("center", "target"), [(9, 0), (-1, 0), (0, 9), (0, -1)])
def test_a_row_out_of_range_is_an_error(monkeypatch, rng, center, target):
    monkeypatch.delenv("TFPS_DISABLE_OPS", raising=False)
    matrices, _, _ = example(rng, "sgd", 4, 1, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="below the rows, 9. Received: pair 1 with center"):
        train_pairs(ROW_RULES["sgd"], matrices, [0, center], [[0], [target]], HYPER["sgd"])


def test_what_does_not_fit_is_an_error(way, rng):
    matrices, centers, targets = example(rng, "sgd", 4, 5, 2)
    with pytest.raises(UnsupportedError, match="Received: 'adam'. Valid: .'sgd', 'adagrad'"):
        train_pairs(ROW_RULES["adam"], matrices, centers, targets, HYPER["sgd"])
    with pytest.raises(ConfigError, match="Received: 1 matrices"):
        train_pairs(ROW_RULES["adagrad"], matrices, centers, targets, HYPER["adagrad"])
    with pytest.raises(tf.errors.InvalidArgumentError):
        train_pairs(ROW_RULES["sgd"], matrices, centers[:4], targets, HYPER["sgd"])
