"""The stage: contributions wait here on the servers until they are merged, one message for each server and place.

Threading: a worker writes a place while no update reads it; the chief makes sure of that, see `schedule.py`.
Cost: the memory of one message for each place; a write costs one copy.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from tfps.cluster import devices
from tfps.stages import PUSH, in_stage


class Stage:
    """Messages of any length on the servers, each in its own place; a new message replaces the old one.

    Args:
        name: a name that no other stage has.
        places: the number of places.
    """

    def __init__(self, name: str, places: int) -> None:
        self._name, self.places = name, places

    @in_stage(PUSH)
    def put(
        self, server: int, place: tf.Tensor, message: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Operation:
        """Writes a message on a server; returns the operation.

        Args:
            server: the number of the server.
            place: int32 scalar, below the number of places.
            message: float32 vector.
            decode: what the server makes of a message before it waits.
        """
        with tf.device(devices.server(server)):
            arrived = decode(tf.identity(message))
            # The name of a resource is part of the graph, so there is a branch for each place.
            writes = [functools.partial(self._write, server, number, arrived) for number in range(self.places)]
            return writes[0]() if len(writes) == 1 else tf.switch_case(tf.identity(place), writes)

    def take(self, server: int, place: int, is_there: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
        """Returns the message in a place, or `otherwise` if there is none; call it with the server as the device.

        Args:
            server: the number of the server.
            place: the number of the place.
            is_there: bool scalar, whether the place has a message for this update.
            otherwise: float32 vector.
        """
        read = functools.partial(self._read, server, place)
        # The read is inside a branch, because reading a place that was never written would fail.
        return tf.ensure_shape(tf.cond(is_there, read, lambda: otherwise), [None])

    def _write(self, server: int, place: int, message: tf.Tensor) -> tf.Tensor:
        with tf.device(devices.server(server)):
            # A message replaces the old one, so a contribution that is repeated after a loss overwrites the first.
            write = tf.raw_ops.AssignVariableOp(resource=self._handle(place), value=message)
            with tf.control_dependencies([write]):
                return tf.constant(True)

    def _read(self, server: int, place: int) -> tf.Tensor:
        with tf.device(devices.server(server)):
            return tf.raw_ops.ReadVariableOp(resource=self._handle(place), dtype=tf.float32)

    def _handle(self, place: int) -> tf.Tensor:
        """Returns the resource of a place on the current device."""
        return tf.raw_ops.VarHandleOp(
            dtype=tf.float32, shape=tf.TensorShape(None), shared_name=f"tfps_stage_{self._name}_{place}", name="stage"
        )
