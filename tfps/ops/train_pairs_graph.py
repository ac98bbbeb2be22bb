"""`train_pairs` with TensorFlow's own ops: a loop over the pairs, with some operations for each target."""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.ops.row_rules import RowRule

MOST_LOSS = 87.33654
"""The largest loss of a target. It is -log of the smallest float, to which the C++ op limits a probability."""
_State: TypeAlias = tuple[tf.Tensor, list[tf.Tensor]]
"""The center's row, which stays the same for the whole pair, and the matrices, which every target changes."""


def train_pairs_graph(
    rule: RowRule, rows: Sequence[tf.Tensor], centers: tf.Tensor, targets: tf.Tensor, hyper: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Trains pairs with the same order of updates as the C++ op; see `train_pairs`."""
    before = [tf.convert_to_tensor(matrix) for matrix in rows]
    centers, targets = tf.convert_to_tensor(centers), tf.convert_to_tensor(targets)
    fits = tf.debugging.assert_equal(
        tf.shape(centers), tf.shape(targets)[:1], "`targets` must be a row for each center"
    )
    with tf.control_dependencies([fits]):
        pairs, width = tf.size(centers), tf.shape(targets)[1]

    def train_target(
        pair: tf.Tensor, k: tf.Tensor, state: _State, gradient: tf.Tensor, loss: tf.Tensor
    ) -> tuple[tf.Tensor, _State, tf.Tensor, tf.Tensor]:
        center, matrices = state
        row = targets[pair, k]
        found = tf.gather(matrices[0], row)
        score = tf.reduce_sum(center * found)
        positive = k == 0
        # The derivative of the logistic loss for the score. The first target of a pair is its positive one.
        slope = tf.sigmoid(score) - tf.cast(positive, tf.float32)
        loss += tf.cast(tf.minimum(tf.math.softplus(tf.where(positive, -score, score)), MOST_LOSS), tf.float64)
        # The center's gradient uses the target's row from before the update.
        updated = update_row(rule, matrices, row, slope * center, hyper)
        return k + 1, (center, updated), gradient + slope * found, loss

    def train_pair(
        pair: tf.Tensor, matrices: list[tf.Tensor], loss: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        center = tf.gather(matrices[0], centers[pair])
        # One iteration at a time: a target must see the updates of the targets before it.
        _, (_, matrices), gradient, loss = tf.while_loop(
            lambda k, *_: k < width,
            lambda k, state, gradient, loss: train_target(pair, k, state, gradient, loss),
            (0, (center, matrices), tf.zeros_like(center), loss),
            parallel_iterations=1,
        )
        return pair + 1, update_row(rule, matrices, centers[pair], gradient, hyper), loss

    _, after, loss = tf.while_loop(
        lambda pair, *_: pair < pairs, train_pair, (0, before, tf.zeros([], tf.float64)), parallel_iterations=1
    )
    return [new - old for new, old in zip(after, before, strict=True)], loss


def update_row(
    rule: RowRule, matrices: Sequence[tf.Tensor], row: tf.Tensor, gradient: tf.Tensor, hyper: tf.Tensor
) -> list[tf.Tensor]:
    """Returns the matrices after an update of one row."""
    # The rule works on matrices of rows, so the row becomes a matrix of one.
    found, *slots = [tf.gather(matrix, row)[tf.newaxis] for matrix in matrices]
    deltas = rule.deltas(found, slots, gradient[tf.newaxis], hyper)
    where = tf.reshape(row, [1, 1])
    return [tf.tensor_scatter_nd_add(matrix, where, delta) for matrix, delta in zip(matrices, deltas, strict=True)]
