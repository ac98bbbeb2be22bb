"""Where contributions wait on the servers until they are merged: one message a server and place.

Threading: a worker writes a place while no update reads it; the chief sees to that, see `schedule.py`.
Cost: the memory of one message a place; writing costs one copy.
"""

import functools

import tensorflow as tf

from tfps.cluster import devices


class Stage:
    """Messages of any length on the servers, each in a place of its own; a message replaces the one before it.

    Args:
        name: name that no other stage has.
        places: number of places.
    """

    def __init__(self, name: str, places: int) -> None:
        self._name, self.places = name, places

    def put(self, server: int, place: tf.Tensor, message: tf.Tensor) -> tf.Operation:
        """Leaves a message with a server; returns the operation.

        Args:
            server: its number.
            place: int32 scalar, below the number of places.
            message: float32 vector.
        """
        with tf.device(devices.server(server)):
            arrived = tf.identity(message)
            # A resource is found by name, which is part of the graph: so there is a branch for each place.
            writes = [functools.partial(self._write, server, number, arrived) for number in range(self.places)]
            return writes[0]() if len(writes) == 1 else tf.switch_case(tf.identity(place), writes)

    def take(self, server: int, place: int, is_there: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
        """The message in a place, or `otherwise` where it is not there; to be called with that server as the device.

        Args:
            server: its number.
            place: number of the place.
            is_there: bool scalar, whether the place has a message for this update.
            otherwise: float32 vector.
        """
        read = functools.partial(self._read, server, place)
        # The read is in a branch: a place that was never written has no value, and reading it would fail.
        return tf.ensure_shape(tf.cond(is_there, read, lambda: otherwise), [None])

    def _write(self, server: int, place: int, message: tf.Tensor) -> tf.Tensor:
        with tf.device(devices.server(server)):
            # A message replaces what is there: a contribution that is made again after a loss overwrites the first.
            write = tf.raw_ops.AssignVariableOp(resource=self._handle(place), value=message)
            with tf.control_dependencies([write]):
                return tf.constant(True)

    def _read(self, server: int, place: int) -> tf.Tensor:
        with tf.device(devices.server(server)):
            return tf.raw_ops.ReadVariableOp(resource=self._handle(place), dtype=tf.float32)

    def _handle(self, place: int) -> tf.Tensor:
        """The resource of that name on the device of the caller."""
        return tf.raw_ops.VarHandleOp(
            dtype=tf.float32, shape=tf.TensorShape(None), shared_name=f"tfps_stage_{self._name}_{place}", name="stage"
        )
