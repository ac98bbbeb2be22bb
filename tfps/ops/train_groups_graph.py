"""`train_groups` with TensorFlow's own ops: a loop over the groups, with an update for each of their rows."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.ops.row_rules import RowRule
from tfps.ops.train_pairs_graph import MOST_LOSS, update_row


def train_groups_graph(
    rule: RowRule,
    rows: Sequence[tf.Tensor],
    centers: tf.Tensor,
    sizes: tf.Tensor,
    targets: tf.Tensor,
    hyper: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Trains groups with the same order of updates as the C++ op; see `train_groups`."""
    before = [tf.convert_to_tensor(matrix) for matrix in rows]
    centers, sizes, targets = (tf.convert_to_tensor(ids) for ids in (centers, sizes, targets))
    fits = [
        tf.debugging.assert_equal(tf.shape(sizes), tf.shape(targets)[:1], "`targets` must be a row for each size"),
        tf.debugging.assert_equal(tf.size(centers), tf.reduce_sum(sizes), "`sizes` must come to the number of centers"),
        tf.debugging.assert_non_negative(sizes, "`sizes` must be at least 0"),
    ]
    with tf.control_dependencies([check for check in fits if check is not None]):
        begins, groups = tf.cumsum(sizes, exclusive=True), tf.size(sizes)

    def update_all(
        matrices: list[tf.Tensor], ids: tf.Tensor, gradients: tf.Tensor, count: tf.Tensor
    ) -> list[tf.Tensor]:
        # One iteration at a time: a row that the group names again must be as its first update has left it.
        _, after = tf.while_loop(
            lambda k, *_: k < count,
            lambda k, now: (k + 1, update_row(rule, now, ids[k], gradients[k], hyper)),
            (0, matrices),
            parallel_iterations=1,
        )
        return list(after)

    def train_group(
        group: tf.Tensor, matrices: list[tf.Tensor], loss: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        size, of_targets = sizes[group], targets[group]
        of_centers = centers[begins[group] : begins[group] + size]
        # [size, dim] and [width, dim], before any update of the group.
        center_rows, target_rows = tf.gather(matrices[0], of_centers), tf.gather(matrices[0], of_targets)
        scores = tf.matmul(center_rows, target_rows, transpose_b=True)
        positive = tf.broadcast_to(tf.range(tf.size(of_targets)) == 0, tf.shape(scores))
        slopes = tf.sigmoid(scores) - tf.cast(positive, tf.float32)
        losses = tf.minimum(tf.math.softplus(tf.where(positive, -scores, scores)), MOST_LOSS)
        # A group without centers does not even decay its targets.
        width = tf.where(size > 0, tf.size(of_targets), 0)
        matrices = update_all(matrices, of_targets, tf.matmul(slopes, center_rows, transpose_a=True), width)
        matrices = update_all(matrices, of_centers, tf.matmul(slopes, target_rows), size)
        return group + 1, matrices, loss + tf.reduce_sum(tf.cast(losses, tf.float64))

    _, after, loss = tf.while_loop(
        lambda group, *_: group < groups, train_group, (0, before, tf.zeros([], tf.float64)), parallel_iterations=1
    )
    return [new - old for new, old in zip(after, before, strict=True)], loss
