"""`train_pairs` by TensorFlow's own ops: a loop over the pairs, in which each target is a handful of operations."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfps.ops.row_rules import RowRule

_MOST_LOSS = 87.33654  # the logarithm of the smallest float, to which the C++ op limits a probability


def train_pairs_graph(
    rule: RowRule, rows: Sequence[Any], centers: Any, targets: Any, hyper: Any
) -> tuple[list[Any], Any]:
    """See `train_pairs`."""
    before = [tf.convert_to_tensor(matrix) for matrix in rows]
    centers, targets = tf.convert_to_tensor(centers), tf.convert_to_tensor(targets)
    fits = tf.debugging.assert_equal(
        tf.shape(centers), tf.shape(targets)[:1], "`targets` must be a row for each center"
    )
    with tf.control_dependencies([fits]):
        pairs, width = tf.size(centers), tf.shape(targets)[1]

    def train_target(pair: Any, k: Any, state: Any, gradient: Any, loss: Any) -> Any:
        center, matrices = state
        row = targets[pair, k]
        found = tf.gather(matrices[0], row)
        score = tf.reduce_sum(center * found)
        positive = k == 0
        slope = tf.sigmoid(score) - tf.cast(positive, tf.float32)
        loss += tf.cast(tf.minimum(tf.math.softplus(tf.where(positive, -score, score)), _MOST_LOSS), tf.float64)
        updated = _update(rule, matrices, row, slope * center, hyper)
        return k + 1, (center, updated), gradient + slope * found, loss

    def train_pair(pair: Any, matrices: Any, loss: Any) -> Any:
        center = tf.gather(matrices[0], centers[pair])
        _, (_, matrices), gradient, loss = tf.while_loop(
            lambda k, *_: k < width,
            lambda k, state, gradient, loss: train_target(pair, k, state, gradient, loss),
            (0, (center, matrices), tf.zeros_like(center), loss),
            parallel_iterations=1,
        )
        return pair + 1, _update(rule, matrices, centers[pair], gradient, hyper), loss

    _, after, loss = tf.while_loop(
        lambda pair, *_: pair < pairs, train_pair, (0, before, tf.zeros([], tf.float64)), parallel_iterations=1
    )
    return [new - old for new, old in zip(after, before, strict=True)], loss


def _update(rule: RowRule, matrices: list[Any], row: Any, gradient: Any, hyper: Any) -> list[Any]:
    """The matrices after one row of them was updated."""
    named = dict(zip(rule.hyperparameters, tf.unstack(hyper[:-1], num=len(rule.hyperparameters)), strict=True))
    found = [tf.gather(matrix, row)[tf.newaxis] for matrix in matrices]
    decayed = found[0] - found[0] * hyper[-1]
    deltas = rule.formula(decayed, found[1:], gradient[tf.newaxis], named)
    deltas[0] += decayed - found[0]
    where = tf.reshape(row, [1, 1])
    return [tf.tensor_scatter_nd_add(matrix, where, delta) for matrix, delta in zip(matrices, deltas, strict=True)]
