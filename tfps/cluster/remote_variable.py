"""`RemoteVariable`: a variable on another task, which ends with the connection that it was made under."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops  # the class tf.Variable makes is not public

from tfps.cluster import connection, devices
from tfps.cluster.faults import translated
from tfps.types import Shape


class RemoteVariable(resource_variable_ops.ResourceVariable):
    """A resource variable that says so, in one line, if its cluster has ended.

    Threading: as any `tf.Variable`. Ownership: the task frees the value when this object is collected, or when the
    connection ends.

    Args:
        initial_value: a tensor, or a function of no argument, run on the device of the variable.
        name: of the variable.
        dtype: its type.
        shape: its shape.
        trainable: whether tapes watch it.
        device: where it lives, for example "/job:ps/task:1/device:CPU:0".
    """

    def __init__(
        self,
        initial_value: tf.Tensor | Callable[[], tf.Tensor],
        *,
        name: str,
        dtype: str | tf.DType,
        shape: Shape | tf.TensorShape,
        trainable: bool,
        device: str,
    ) -> None:
        # The chief stays where it is whatever cluster it is connected to; what a server holds goes with that.
        self._connection = None if device == devices.CHIEF else connection.current()
        with tf.device(device):
            super().__init__(initial_value, trainable=trainable, name=name, dtype=dtype, shape=shape)
        if self._connection is not None:
            self._connection.add_user(self)

    @property
    def handle(self) -> tf.Tensor:
        """The resource."""
        return self.home_handle

    @property
    def home_handle(self) -> tf.Tensor:
        """The resource on the server or the chief, wherever it is asked for.

        Raises:
            ClusterError: the strategy that it was made under has ended.
        """
        if self._connection is not None:
            self._connection.check()
        return self._handle

    def release(self) -> None:
        """Lets go of the resource, as the strategy that it was made under ends."""
        self._handle = None

    def _read_variable_op(self, no_copy: bool = False) -> tf.Tensor:
        # In a graph nothing is read yet; whoever runs it translates its errors.
        if self._connection is None or not tf.executing_eagerly():
            return super()._read_variable_op(no_copy)
        with translated(self._connection.cluster):
            return super()._read_variable_op(no_copy)
