"""The `ClusterCoordinator` of a hand-written loop, made to raise errors of ours where it would raise TensorFlow's.

TensorFlow makes the coordinator and its results and leaves no way to name other classes, so both get the classes below
once they are made. TensorFlow also logs each error with its whole text, over a hundred lines; `shorten_record` leaves
one line of that where an id was out of range. Threading: as TensorFlow's. Cost: nothing until a function fails.
"""

import logging
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute.coordinator import values  # results of `schedule` have no public class

from tfps.cluster.faults import Cluster, translated
from tfps.errors import ClusterError, IdRangeError
from tfps.ops import id_range


def shorten_record(record: logging.LogRecord) -> bool:
    """A filter of TensorFlow's logger: replaces the text of an id out of range by one line. Keeps every record."""
    # TensorFlow logs " /job:worker/task:%d encountered ... %r:%s" and "Start cancelling closures due to error %r: %s".
    for argument in record.args or ():
        if isinstance(argument, tf.errors.InvalidArgumentError) and (ours := id_range.find(str(argument))):
            record.msg, record.args = "A scheduled function failed: %s", (ours,)
            break
    return True


class RemoteValue(values.RemoteValueImpl):
    """The result of one scheduled function."""

    cluster: Cluster = None
    """The cluster it is computed on, for messages."""

    def get(self) -> Any:
        """Waits for the function; see `tf.distribute.coordinator.RemoteValue`."""
        with translated(self.cluster):
            return super().get()


class Coordinator(tf.distribute.coordinator.ClusterCoordinator):
    """Schedules functions on workers; see `tf.distribute.coordinator.ClusterCoordinator`."""

    def schedule(self, fn: Any, args: Any = None, kwargs: Any = None) -> Any:
        """Has a worker run `fn`; raises what an earlier function failed with."""
        with translated(self.strategy.connection.cluster):
            result = super().schedule(fn, args, kwargs)
        # Not a structure: one result stands for everything that `fn` returns.
        result.__class__, result.cluster = RemoteValue, self.strategy.connection.cluster
        return result

    def join(self) -> None:
        """Waits for all functions; raises what one of them failed with."""
        with translated(self.strategy.connection.cluster):
            super().join()

    def done(self) -> bool:
        """Whether all functions have ended; raises what one of them failed with."""
        with translated(self.strategy.connection.cluster):
            return bool(super().done())

    def fetch(self, val: Any) -> Any:
        """Waits for the results in a structure; raises what one of their functions failed with."""
        try:
            return super().fetch(val)
        except (ClusterError, IdRangeError) as error:
            raise error.with_traceback(None) from None  # frames of TensorFlow's structures say nothing to the user
