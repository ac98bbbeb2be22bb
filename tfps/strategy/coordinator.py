"""`Coordinator`: a `ClusterCoordinator` for hand-written loops that raises errors of tfps instead of TensorFlow's.

TensorFlow creates the coordinator and its results, and has no setting for their classes. So the class of both objects
is changed after they are created. TensorFlow also logs the whole text of each error, over a hundred lines, up to four
times; `shorten_record` makes that one line where an id was out of range. Threading: as for TensorFlow's class. Cost:
none until a function fails.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute.coordinator import values  # results of `schedule` have no public class

from tfps.cluster.faults import Cluster, translate_errors
from tfps.errors import ClusterError, IdRangeError
from tfps.ops import id_range
from tfps.types import Nest


def shorten_record(record: logging.LogRecord) -> bool:
    """Filters TensorFlow's logger: replaces the text of an id out of range by one line, and keeps every record."""
    # TensorFlow logs " /job:worker/task:%d encountered ... %r:%s" and "Start cancelling closures due to error %r: %s".
    for argument in record.args or ():
        if isinstance(argument, tf.errors.InvalidArgumentError) and (ours := id_range.find(str(argument))):
            record.msg, record.args = "A scheduled function failed: %s", (ours,)
            break
    return True


class RemoteValue(values.RemoteValueImpl):
    """The result of one scheduled function."""

    cluster: Cluster = None
    """The cluster that computes the value, for messages."""

    def get(self) -> Nest:
        """Waits for the function and returns its result; see `tf.distribute.coordinator.RemoteValue`."""
        with translate_errors(self.cluster):
            return super().get()


class Coordinator(tf.distribute.coordinator.ClusterCoordinator):
    """Schedules functions on workers; see `tf.distribute.coordinator.ClusterCoordinator`."""

    def __del__(self) -> None:  # noqa: D105
        # TensorFlow logs each step of the end. At the end of a notebook its streams are closed, and each of these
        # lines would become a traceback.
        logger = tf.get_logger()
        before, logger.disabled = logger.disabled, True
        try:
            super().__del__()
        finally:
            logger.disabled = before

    def schedule(
        self, fn: Callable[..., Any], args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> RemoteValue:
        """Schedules `fn` on a worker. Raises the error of an earlier function that has failed."""
        with translate_errors(self.strategy.connection.cluster):
            result = super().schedule(fn, args, kwargs)
        # `schedule` returns one RemoteValue for everything that `fn` returns, and never a structure of them.
        result.__class__, result.cluster = RemoteValue, self.strategy.connection.cluster
        return result

    def join(self) -> None:
        """Waits for all functions. Raises the error of a function that has failed."""
        with translate_errors(self.strategy.connection.cluster):
            super().join()

    def done(self) -> bool:
        """Returns whether all functions have ended. Raises the error of a function that has failed."""
        with translate_errors(self.strategy.connection.cluster):
            return bool(super().done())

    def fetch(self, val: Nest) -> Nest:
        """Waits for the results in a structure. Raises the error of a function that has failed."""
        try:
            return super().fetch(val)
        except (ClusterError, IdRangeError) as error:
            # The frames of TensorFlow's code for structures would only hide the message.
            raise error.with_traceback(None) from None


def adopt(coordinator: tf.distribute.coordinator.ClusterCoordinator) -> Coordinator:
    """Makes a coordinator that TensorFlow has created one of tfps, and returns it."""
    # TensorFlow has no setting for the class.
    coordinator.__class__ = Coordinator
    tf.get_logger().addFilter(shorten_record)  # a second time does nothing
    return coordinator
