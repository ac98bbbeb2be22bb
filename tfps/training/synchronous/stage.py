"""Where contributions wait on the servers until they are merged: one message a server and place."""

import functools
from typing import Any

import tensorflow as tf

from tfps.cluster import devices


class Stage:
    """Messages of any length on the servers, each in a place of its own; a message replaces the one before it.

    Args:
        name: which no other stage has.
        places: how many there are.
    """

    def __init__(self, name: str, places: int) -> None:
        self._name, self.places = name, places

    def put(self, server: int, place: Any, message: Any) -> Any:
        """Leaves a message with a server; returns the operation.

        Args:
            server: its number.
            place: int32 scalar, below the number of places.
            message: float32 vector.
        """
        with tf.device(devices.server(server)):
            arrived = tf.identity(message)
            writes = [functools.partial(self._write, server, number, arrived) for number in range(self.places)]
            return writes[0]() if len(writes) == 1 else tf.switch_case(tf.identity(place), writes)

    def take(self, server: int, place: int, is_there: Any, otherwise: Any) -> Any:
        """A message, or `otherwise` where it is not there; to be called with that server as the device.

        Args:
            server: its number.
            place: of the message.
            is_there: bool scalar.
            otherwise: float32 vector.
        """
        read = functools.partial(self._read, server, place)
        return tf.ensure_shape(tf.cond(is_there, read, lambda: otherwise), [None])

    def _write(self, server: int, place: int, message: Any) -> Any:
        with tf.device(devices.server(server)):
            write = tf.raw_ops.AssignVariableOp(resource=self._handle(place), value=message)
            with tf.control_dependencies([write]):
                return tf.constant(True)

    def _read(self, server: int, place: int) -> Any:
        with tf.device(devices.server(server)):
            return tf.raw_ops.ReadVariableOp(resource=self._handle(place), dtype=tf.float32)

    def _handle(self, place: int) -> Any:
        """The resource of that name on the device of the caller."""
        return tf.raw_ops.VarHandleOp(
            dtype=tf.float32, shape=tf.TensorShape(None), shared_name=f"tfps_stage_{self._name}_{place}", name="stage"
        )
