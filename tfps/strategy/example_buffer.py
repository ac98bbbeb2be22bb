"""`ExampleBuffer`: the examples that a metric collects, because no sum over them is enough for its result.

A worker keeps the examples of a closure in a list of tensors of its own and returns them with the result of the
closure, in the same message. So a metric needs no remote operation in a step, and a closure that runs again counts
once. The chief appends them to the buffer.

Threading: the thread that traces a step calls `push`; the main thread calls everything else.
"""

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tfps import step
from tfps.errors import BufferLimitError

_NUMBERS = itertools.count()

Rows: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]
"""Examples on the chief, int32 [examples, width]: the bits of their values."""


class ExampleBuffer:
    """Examples on the chief, and the way in which the steps of workers add to them.

    Args:
        metric: the name of the metric, for messages.
        width: the number of int32 lanes of an example.
        limit: the most examples.
        publish: called when the examples of an epoch are complete.

    Attributes:
        key: the key by which a step knows the list of its worker.
    """

    def __init__(self, metric: str, width: int, limit: int, publish: Callable[[], None]) -> None:
        self.key = f"examples_{next(_NUMBERS)}"
        self.publish = publish
        self._metric, self._width, self._limit = metric, width, limit
        self._parts: list[Rows] = []
        self._size = 0

    def add(self, rows: Rows) -> None:
        """Adds examples, int32 [n, width].

        Raises:
            BufferLimitError: there are more examples than the limit.
        """
        if not len(rows):
            return
        self.check_size(self._size + len(rows))
        self._parts.append(rows)
        self._size += len(rows)

    def check_size(self, size: int) -> None:
        """Refuses more examples than the limit.

        Raises:
            BufferLimitError: `size` is above the limit.
        """
        if size > self._limit:
            raise BufferLimitError(
                f"`limit` of metric {self._metric!r} must be at least the number of examples of an epoch. Received: "
                f"{self._limit:,}, and {size:,} examples so far. Valid: a larger limit ({4 * self._width} bytes an "
                "example), fewer steps; tfps.metrics.AUC(), with buckets, in place of ExactAUC."
            )

    def rows(self) -> Rows:
        """Returns all examples, int32 [examples, width]."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.zeros([0, self._width], np.int32), *self._parts])]
        return self._parts[0]

    def clear(self) -> None:
        """Drops all examples."""
        self._parts, self._size = [], 0

    def push(self, rows: tf.Tensor, current: step.Step) -> bool:
        """Adds examples to the list of the worker, from a step under trace.

        Args:
            rows: int32 [n, width].
            current: the step.

        Returns:
            Whether the worker has such a list.
        """
        handle = current.copy_of(self.key)
        if handle is None:
            current.uncopied[self.key] = self
            return False
        with step.on_host():
            if current.weight is not None:
                # A device that has no example of a batch computes one all the same, and it does not count.
                rows = rows[: tf.where(current.weight > 0, tf.shape(rows)[0], 0)]
            examples = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.variant)
            examples = tf.raw_ops.TensorListPushBack(input_handle=examples, tensor=rows)
            tf.raw_ops.AssignVariableOp(resource=handle, value=examples)
        return True

    def begin_closure(self) -> tf.Tensor:
        """Empties the list of the worker at the begin of a closure; returns its handle."""
        handle = tf.raw_ops.VarHandleOp(dtype=tf.variant, shape=[], shared_name=f"tfps_{self.key}", name="examples")
        empty = tf.raw_ops.EmptyTensorList(
            element_shape=tf.constant([-1, self._width], tf.int32), max_num_elements=-1, element_dtype=tf.int32
        )
        tf.raw_ops.AssignVariableOp(resource=handle, value=empty)
        return handle

    def end_closure(self, handle: tf.Tensor) -> tf.Tensor:
        """Returns the examples of a closure, int32 [n, width]."""
        joined = tf.raw_ops.TensorListConcatV2(
            input_handle=tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.variant),
            element_dtype=tf.int32,
            element_shape=tf.constant([-1, self._width], tf.int32),
            leading_dims=tf.zeros([0], tf.int64),
        )
        return tf.ensure_shape(joined.tensor, [None, self._width])

    def parse(self, lanes: np.ndarray[Any, np.dtype[np.float32]]) -> Rows:
        """Returns the examples whose bits are in the result of a closure."""
        # A copy: a view would keep the whole result.
        return lanes.view(np.int32).reshape(-1, self._width).copy()

    @property
    def size(self) -> int:
        """The number of examples."""
        return self._size

    @property
    def width(self) -> int:
        """The number of int32 lanes of an example."""
        return self._width
