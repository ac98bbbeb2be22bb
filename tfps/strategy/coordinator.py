"""The `ClusterCoordinator` of a hand-written loop, made to raise errors of ours where it would raise TensorFlow's.

TensorFlow makes the coordinator and its results and leaves no way to name other classes, so both get the classes below
once they are made. Threading: as TensorFlow's. Cost: nothing until a function fails.
"""

from typing import Any

import tensorflow as tf
from tensorflow.python.distribute.coordinator import values  # results of `schedule` have no public class

from tfps.cluster.faults import Cluster, translate_errors
from tfps.errors import ClusterError, IdRangeError


class RemoteValue(values.RemoteValueImpl):
    """The result of one scheduled function."""

    cluster: Cluster = None
    """The cluster it is computed on, for messages."""

    def get(self) -> Any:
        """Waits for the function; see `tf.distribute.coordinator.RemoteValue`."""
        with translate_errors(self.cluster):
            return super().get()


class Coordinator(tf.distribute.coordinator.ClusterCoordinator):
    """Schedules functions on workers; see `tf.distribute.coordinator.ClusterCoordinator`."""

    def schedule(self, fn: Any, args: Any = None, kwargs: Any = None) -> Any:
        """Has a worker run `fn`; raises what an earlier function failed with."""
        with translate_errors(self.strategy.connection.cluster):
            result = super().schedule(fn, args, kwargs)
        # Not a structure: one result stands for everything that `fn` returns.
        result.__class__, result.cluster = RemoteValue, self.strategy.connection.cluster
        return result

    def join(self) -> None:
        """Waits for all functions; raises what one of them failed with."""
        with translate_errors(self.strategy.connection.cluster):
            super().join()

    def done(self) -> bool:
        """Whether all functions have ended; raises what one of them failed with."""
        with translate_errors(self.strategy.connection.cluster):
            return bool(super().done())

    def fetch(self, val: Any) -> Any:
        """Waits for the results in a structure; raises what one of their functions failed with."""
        try:
            return super().fetch(val)
        except (ClusterError, IdRangeError) as error:
            raise error.with_traceback(None) from None  # frames of TensorFlow's structures say nothing to the user
