"""`GraphExamples`: examples that a graph of this process collects, outside of parameter servers.

A graph cannot append to a list of Python, so the examples are rows of a variable with `limit` rows, one for each
replica. Rows are written in place. With several hosts each one keeps the examples of all, which costs a message in each
step.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops  # the class tf.Variable makes is not public

from tfps.replicas import step
from tfps.strategy.example_buffer import Rows


class GraphExamples:
    """Examples in variables.

    Memory: `limit` rows for each replica, from the first use on.

    Args:
        width: the number of int32 lanes of an example.
        limit: the most examples.
    """

    def __init__(self, width: int, limit: int) -> None:
        self._width, self._limit = width, limit
        # The rows and their number, by the number of the replica.
        self._variables: dict[int, tuple[tf.Variable, tf.Variable]] = {}

    def push(self, rows: tf.Tensor, counts: tf.Tensor) -> None:
        """Adds examples, in a graph.

        Args:
            rows: int32 [n, width].
            counts: whether each counts, bool [n].
        """
        current = step.current()
        if current is not None:
            # A replica that has no example of a batch computes one all the same.
            counts = counts & (current.examples > 0)
        rows, counts = _of_all_hosts(rows, counts)
        stored, size = self._of_replica()
        added = tf.cast(counts, tf.int64)
        places = size + tf.cumsum(added) - 1
        # The last row takes what does not count, and what is beyond the limit; the size tells how many there were.
        places = tf.minimum(tf.where(counts, places, self._limit), self._limit)
        with tf.control_dependencies([places]):
            write = tf.raw_ops.ResourceScatterUpdate(resource=stored.handle, indices=places, updates=rows)
        with tf.control_dependencies([write] if write is not None else []):
            size.assign_add(tf.reduce_sum(added))

    def rows(self, check_size: Callable[[int], None]) -> Rows:
        """Returns the examples of all replicas of this process, int32 [n, width].

        Args:
            check_size: is called with the number of examples, and refuses too many.
        """
        sizes = {number: int(size) for number, (_, size) in self._variables.items()}
        check_size(sum(sizes.values()))
        parts = [stored[: sizes[number]].numpy() for number, (stored, _) in sorted(self._variables.items())]
        return np.concatenate([np.zeros([0, self._width], np.int32), *parts])

    def clear(self) -> None:
        """Drops all examples."""
        for _, size in self._variables.values():
            size.assign(0)

    def _of_replica(self) -> tuple[tf.Variable, tf.Variable]:
        """Returns the variables of the replica that is traced."""
        replica = tf.distribute.get_replica_context()
        number = 0 if replica is None else int(tf.get_static_value(replica.replica_id_in_sync_group) or 0)
        if number not in self._variables:
            # Not `tf.Variable`, which under a strategy has a copy on every replica.
            with tf.init_scope():
                self._variables[number] = (
                    resource_variable_ops.ResourceVariable(
                        lambda: tf.zeros([self._limit + 1, self._width], tf.int32), trainable=False
                    ),
                    resource_variable_ops.ResourceVariable(lambda: tf.zeros([], tf.int64), trainable=False),
                )
        return self._variables[number]


def _of_all_hosts(rows: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the examples of the replicas of all hosts, and whether each counts on this replica."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return rows, counts
    here = len(replica.strategy.extended.worker_devices)
    if replica.num_replicas_in_sync == here:
        return rows, counts
    # One message for both: no other lane of an example is a bool.
    marked = replica.all_gather(tf.concat([rows, tf.cast(counts, tf.int32)[:, None]], 1), 0)
    is_first = tf.equal(replica.replica_id_in_sync_group % here, 0)
    return marked[:, :-1], tf.logical_and(marked[:, -1] > 0, is_first)
