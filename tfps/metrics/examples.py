"""`Examples`: what metrics collect, on the chief; and the form in which workers send it."""

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tfps.metrics.batches import Batch
from tfps.strategy.example_buffer import Rows

Doubles: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Ids: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

WIDTH = 5
"""The int32 lanes of an example: a label, a score and a weight of 4 bytes each, and a group of 8."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Predictions of two classes.

    Args:
        labels: 0 or 1, float64 [n].
        scores: the predictions, float64 [n], rounded to float32.
        weights: the weights, float64 [n], rounded to float32.
        groups: the group of each, int64 [n].
    """

    labels: Doubles
    scores: Doubles
    weights: Doubles
    groups: Ids


def to_rows(batch: Batch, groups: tf.Tensor) -> tf.Tensor:
    """Packs a batch into int32 [n, WIDTH]; `from_rows` is the inverse.

    Args:
        batch: the batch.
        groups: the group of each label, int64 [n].
    """
    values = tf.stack([batch.labels, batch.scores, batch.weights], 1)
    lanes = tf.bitcast(tf.cast(values, tf.float32), tf.int32)
    # By arithmetic: TensorFlow merges a bitcast with that of a fingerprint, from bytes, and the graph fails.
    high = tf.cast(tf.bitwise.right_shift(groups, tf.constant(32, tf.int64)), tf.int32)
    return tf.concat([lanes, tf.stack([tf.cast(groups, tf.int32), high], 1)], 1)


def from_rows(rows: Rows) -> Examples:
    """Unpacks rows; examples of weight 0 are left out."""
    labels, scores, weights = (np.ascontiguousarray(rows[:, c]).view(np.float32).astype(np.float64) for c in range(3))
    groups = rows[:, 3].astype(np.uint32).astype(np.int64) | rows[:, 4].astype(np.int64) << 32
    counted = weights != 0
    return Examples(labels[counted], scores[counted], weights[counted], groups[counted])
