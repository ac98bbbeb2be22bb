"""`RemoteVariable`: a variable on another task, which ends with the connection that it belongs to."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops  # the class tf.Variable makes is not public

from tfps.cluster import connection, devices
from tfps.cluster.faults import translate_errors
from tfps.types import Shape


class RemoteVariable(resource_variable_ops.ResourceVariable):
    """A resource variable that raises a one-line error if its cluster has ended.

    Threading: as for any `tf.Variable`. Ownership: the task frees the value when this object is collected, or when the
    connection ends.

    Args:
        initial_value: a tensor, or a function without arguments that runs on the variable's device.
        name: the variable's name.
        dtype: the type of its elements.
        shape: the static shape.
        trainable: whether tapes watch the variable.
        device: the device that holds it, for example "/job:ps/task:1/device:CPU:0".
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
        # A variable on the chief survives a change of the cluster; a variable on a server ends with it.
        self._connection = None if device == devices.CHIEF else connection.current()
        self._home = device
        with tf.device(device):
            super().__init__(initial_value, trainable=trainable, name=name, dtype=dtype, shape=shape)
        if self._connection is not None:
            self._connection.add_user(self)
            self._connection.add_holder(self)

    @property
    def handle(self) -> tf.Tensor:
        """The resource handle, checked."""
        return self.home_handle

    @property
    def home_handle(self) -> tf.Tensor:
        """The resource handle on the server or the chief, in every context.

        Raises:
            ClusterError: the variable's strategy has ended.
        """
        if self._connection is not None:
            self._connection.check()
        return self._handle

    def release(self) -> None:
        """Drops the handle because the variable's strategy ends."""
        self._handle = None

    def forget(self, device: str) -> None:
        """Makes the value anew if it was on this device and has ended with its task; see `remake`."""
        if device == self._home:
            remake(self, device)

    def _read_variable_op(self, no_copy: bool = False) -> tf.Tensor:
        # A graph reads nothing while it is traced; the code that runs it translates its errors.
        if self._connection is None or not tf.executing_eagerly():
            return super()._read_variable_op(no_copy)
        with translate_errors(self._connection.cluster):
            return super()._read_variable_op(no_copy)


def remake(variable: resource_variable_ops.ResourceVariable, device: str) -> None:
    """Gives a variable a new value on a server that was started again. The Python object stays the same.

    The value is NaN, or the least integer, so that nobody takes a value that was not restored for a trained one.
    Functions that were traced with it have the old handle, and fail.
    """
    with tf.init_scope(), tf.device(device):
        fresh = resource_variable_ops.ResourceVariable(
            lambda: tf.fill(variable.shape, _lost_value(variable.dtype)),
            trainable=False,
            name=variable.name.partition(":")[0],
            dtype=variable.dtype,
            shape=variable.shape,
        )
    # The handle is all that a variable has of its value. The server frees the value with the last reference to it.
    variable._handle = fresh._handle


def _lost_value(dtype: tf.DType) -> tf.Tensor:
    """Returns the value of an element that is lost and not restored."""
    if dtype.is_floating or dtype.is_complex:
        return tf.cast(float("nan"), dtype)
    return tf.constant(dtype.min if dtype.is_integer else "" if dtype == tf.string else False, dtype)
