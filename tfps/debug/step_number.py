"""The number and the worker of a step, in its graph.

Threading: the thread that traces the step.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfps import step
from tfps.keras import moving_averages
from tfps.strategy.variables import DenseVariable


def number_and_worker(optimizer: keras.Optimizer) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the number of the step under trace and the number of its worker, int64 scalars; 0 for a program alone.

    The number is that of the batch among those of all workers, from 0, as one process would count. Where the batches of
    a closure are not known beforehand (synchronous and all-reduce training, `train_on_batch`), it is the number of
    updates so far, and workers share numbers.

    Args:
        optimizer: the optimizer that counts the steps; it has not counted this one yet.
    """
    counter = moving_averages.iterations_of(optimizer)
    counted = tf.cast(tf.convert_to_tensor(counter), tf.int64)
    current = step.current()
    numbering = None if current is None else current.numbering
    if numbering is None:
        return counted, tf.zeros([], tf.int64)
    pulled = numbering.pulled.get(counter.key) if isinstance(counter, DenseVariable) else None
    if pulled is None:
        return counted, numbering.shard
    before = counted - tf.cast(pulled, tf.int64)
    number = tf.where(numbering.stride > 0, numbering.number + before * numbering.stride, counted)
    return number, numbering.shard


def is_one_of(number: tf.Tensor, numbers: Sequence[int] | None) -> tf.Tensor:
    """Returns whether a number, an int64 scalar, is one of some; None stands for all. A bool scalar."""
    if numbers is None:
        return tf.constant(True)
    if isinstance(numbers, range):
        within = (number >= numbers.start) & (number < numbers.stop)
        return within & ((number - numbers.start) % numbers.step == 0)
    return tf.reduce_any(number == tf.constant(list(numbers), tf.int64))
