"""Sums gradients over replicas: dense ones by all-reduce, those of rows by gathering the rows that were touched.

A replica with n examples has the gradients of their mean loss. All replicas together should have those of the mean over
all examples, so each counts by n. Threading: the thread of a replica.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib  # how to update one replica is not public

from tfps.ops.segment_sum_rows import segment_sum_rows
from tfps.replicas import messages, step

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices | None
"""A gradient of a variable; None if the loss does not depend on it."""


def sum_over_replicas(gradients: Sequence[Gradient], summed: Sequence[bool]) -> list[Gradient]:
    """Returns the gradients over all replicas, on each of them. Called by all replicas, in a replica context.

    Args:
        gradients: the gradients of this replica. Those of a step count by its examples and become a mean; others, of a
            loop of the user, are added up, as under TensorFlow's strategies.
        summed: for each gradient, whether the gradients of an id that repeats may be summed before they are sent.
    """
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return list(gradients)
    current = step.current()
    weighted = list(gradients) if current is None else [_weighted(gradient, current.examples) for gradient in gradients]
    rows = [place for place, one in enumerate(weighted) if isinstance(one, tf.IndexedSlices)]
    dense = [place for place, one in enumerate(weighted) if one is not None and place not in rows]
    # The examples cross with the gradients, because a message costs more than a number.
    counts = [] if current is None else [current.examples]
    totals = messages.all_sum([*(weighted[place] for place in dense), *counts])
    result: list[Gradient] = [None] * len(weighted)
    for place, total in zip(dense, totals, strict=False):
        result[place] = total
    # All tables of one width and dtype share their messages.
    kinds: dict[tuple[str, int], list[int]] = {}
    for place in rows:
        gradient = weighted[place]
        assert gradient is not None
        kinds.setdefault((gradient.dtype.name, int(gradient.values.shape[-1])), []).append(place)
    for _, places in sorted(kinds.items()):
        merged = _collect_rows([weighted[place] for place in places], [summed[place] for place in places])
        for place, one in zip(places, merged, strict=True):
            result[place] = one
    if current is None:
        return result
    factor = 1.0 / tf.maximum(totals[-1], 1.0)
    return [_times(gradient, factor) for gradient in result]


def weighted_mean(
    values: Sequence[tf.Tensor], sums: Sequence[tf.Tensor], examples: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns means over the examples of all replicas, and sums over replicas, by one message.

    Args:
        values: floating tensors of this replica, of which the mean is wanted.
        sums: tensors of this replica, of which the sum is wanted.
        examples: the number of examples of this replica, a float32 scalar.
    """
    # NaN of a replica without examples must not count.
    weighted = [tf.math.multiply_no_nan(value, tf.cast(examples, value.dtype)) for value in values]
    totals = messages.all_sum([*weighted, *sums, examples])
    count = tf.maximum(totals[-1], 1.0)
    means = [total / tf.cast(count, total.dtype) for total in totals[: len(values)]]
    return means, list(totals[len(values) : -1])


@contextlib.contextmanager
def on_each_replica() -> Iterator[None]:
    """Lets the code within assign the variables of this replica alone, with the values that all replicas have.

    In a replica context TensorFlow would let the replicas meet at each assignment, which is slow and is not possible in
    a branch.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None:
        yield
        return
    number = replica._local_replica_id if replica.num_replicas_in_sync > 1 else 0
    # As TensorFlow does where replicas meet, but this code runs for one of them.
    distribute_lib._push_per_thread_mode(distribute_lib._CrossReplicaThreadMode(replica.strategy))
    try:
        with distribute_lib.UpdateContext(number), step.updating():
            yield
    finally:
        distribute_lib._pop_per_thread_mode()


def _weighted(gradient: Gradient, examples: tf.Tensor) -> Gradient:
    """Returns a gradient times the examples; 0 times NaN is 0, as the mean loss of no example is NaN."""
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = tf.math.multiply_no_nan(gradient.values, tf.cast(examples, gradient.dtype))
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    gradient = tf.convert_to_tensor(gradient)
    return tf.math.multiply_no_nan(gradient, tf.cast(examples, gradient.dtype))


def _times(gradient: Gradient, factor: tf.Tensor) -> Gradient:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(
            gradient.values * tf.cast(factor, gradient.dtype), gradient.indices, gradient.dense_shape
        )
    return gradient * tf.cast(factor, gradient.dtype)


def _collect_rows(gradients: Sequence[tf.IndexedSlices], summed: Sequence[bool]) -> list[tf.IndexedSlices]:
    """Gathers the touched rows of some tables of one width from all replicas."""
    parts = [_sum_by_id(one) if once else one for one, once in zip(gradients, summed, strict=True)]
    counts = tf.stack([tf.shape(part.indices)[0] for part in parts])
    ids = tf.concat([tf.cast(part.indices, tf.int64) for part in parts], 0)
    values = tf.concat([part.values for part in parts], 0)
    # Three messages for all tables of one width: the counts, the ids, the rows.
    sizes = tf.reshape(messages.all_concat(counts[tf.newaxis]), [-1])
    ids, values = messages.all_concat(ids), messages.all_concat(values)
    pieces = len(parts) * tf.distribute.get_replica_context().num_replicas_in_sync
    of_ids, of_values = tf.split(ids, sizes, num=pieces), tf.split(values, sizes, num=pieces)
    # The pieces of a replica are in the order of the tables: 0 1 2, 0 1 2.
    return [
        tf.IndexedSlices(
            tf.concat(of_values[table :: len(parts)], 0), tf.concat(of_ids[table :: len(parts)], 0), part.dense_shape
        )
        for table, part in enumerate(parts)
    ]


def _sum_by_id(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    if gradient.dtype != tf.float32:
        return gradient
    ids, places = tf.unique(tf.reshape(gradient.indices, [-1]))
    return tf.IndexedSlices(segment_sum_rows([gradient.values], [places], tf.size(ids)), ids, gradient.dense_shape)
