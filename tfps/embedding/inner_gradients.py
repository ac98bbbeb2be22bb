"""The gradients of lookups in a branch or a loop of a step, whose ids the graph of the step does not know.

Such a lookup may run any number of times, each time for other ids. TensorFlow would add up the gradients of a loop in a
tensor as large as the table. Here every backward pass of the lookup pushes its ids and gradients on a stack of the
worker, and the loop only counts the pushes. In the graph of the step, the backward pass then pops as many.

Ownership: a stack belongs to one call of a closure, and TensorFlow frees it at the end of the call.
"""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from tfps import step
from tfps.embedding.routed_rows import RoutedRows
from tfps.ops.graph_gradient import with_gradient

Finish: TypeAlias = Callable[[tf.IndexedSlices], tf.IndexedSlices | tf.Tensor]
"""Takes the gradient of a lookup for its table; returns the gradient of the source of the lookup."""

_ID_LANES = 2
"""The float32 values that hold the bits of an int64 id."""


def gradient_path(current: step.Step | None, table: RoutedRows) -> tuple[tf.Tensor, Finish]:
    """Returns the tensor through which the gradients of a lookup reach its table, and what its backward pass returns.

    Args:
        current: the step of the lookup; None outside of steps.
        table: the table of the lookup.
    """
    if current is None or current.eager or not current.is_inside:
        return table.handle, lambda gradient: gradient
    if current.is_in_loop:
        # In one process TensorFlow adds up the gradients of a loop in a dense tensor, but not those of a branch.
        current.sum_repeats(table.key)
    stack = _GradientStack(current, table)
    return stack.source, stack.push


class _GradientStack:
    """The gradients of one lookup in a branch or a loop.

    Attributes:
        source: a scalar in the graph of the step. Its gradient is the number of pushes.
    """

    def __init__(self, current: step.Step, table: RoutedRows) -> None:
        self._table = table
        with current.outside(), step.on_host():
            # Every run of this operation creates a stack of its own.
            self._handle = tf.raw_ops.StackV2(max_size=-1, elem_type=tf.float32, stack_name="tfps_row_gradients")
            self.source = with_gradient(tf.zeros([]), [current.gradient_source(table.key)], self._pop)
        # The handle in the graph of the branch or loop. In the gradient of a branch within a loop, TensorFlow finds
        # only tensors of the graph of the branch.
        self._inner_handle = tf.compat.v1.get_default_graph().capture(self._handle)

    def push(self, gradient: tf.IndexedSlices) -> tf.Tensor:
        """Pushes ids and gradients, in the branch or the loop of the backward pass; returns their count, 1.0."""
        ids = tf.bitcast(gradient.indices, tf.float32)
        with step.on_host():
            message = tf.concat([ids, tf.cast(gradient.values, tf.float32)], 1)
            pushed = tf.raw_ops.StackPushV2(handle=self._inner_handle, elem=message)
            with tf.control_dependencies([pushed]):
                return tf.identity(tf.ones([]))

    def _pop(self, count: tf.Tensor) -> list[tf.IndexedSlices]:
        """Pops all that was pushed, in the graph of the step."""
        with step.on_host():
            return self._pop_all(count)

    def _pop_all(self, count: tf.Tensor) -> list[tf.IndexedSlices]:
        width = _ID_LANES + self._table.dim
        number = tf.cast(tf.round(count), tf.int32)
        messages = tf.TensorArray(tf.float32, number, element_shape=[None, width], infer_shape=False)

        def body(i: tf.Tensor, messages: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            message = tf.ensure_shape(tf.raw_ops.StackPopV2(handle=self._handle, elem_type=tf.float32), [None, width])
            return i + 1, messages.write(i, message)

        _, messages = tf.while_loop(lambda i, _: i < number, body, (0, messages), parallel_iterations=1)
        ids, values = tf.split(messages.concat(), [_ID_LANES, self._table.dim], 1)
        shape = tf.constant([self._table.rows, self._table.dim], tf.int64)
        return [tf.IndexedSlices(values, tf.bitcast(ids, tf.int64), shape)]
