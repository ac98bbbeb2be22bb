"""`RemoteResource`: anything on another task that has a handle, which ends with the connection that it belongs to."""

from collections.abc import Callable

import tensorflow as tf

from tfps.cluster import connection, devices


class RemoteResource:
    """A resource whose handle owns it: the task frees it with the last reference to the handle.

    Threading: any thread may read the handle. Ownership: this object, and functions that were traced with the handle.

    Args:
        device: the device of the resource, for example "/job:ps/task:1/device:CPU:0".
        make: makes the resource, and returns its handle. It is called in the scope of the device; and again, for an
            empty resource, after its task was started again.
    """

    def __init__(self, device: str, make: Callable[[], tf.Tensor]) -> None:
        self._device, self._make = device, make
        self._connection = None if device == devices.CHIEF else connection.current()
        self._handle: tf.Tensor | None = None
        self._remake()
        if self._connection is not None:
            self._connection.add_user(self)
            self._connection.add_holder(self)

    @property
    def handle(self) -> tf.Tensor:
        """The handle.

        Raises:
            ClusterError: the strategy of the resource has ended.
        """
        if self._connection is not None:
            self._connection.check()
        return self._handle

    def release(self) -> None:
        """Drops the handle because the strategy ends."""
        self._handle = None

    def forget(self, device: str) -> None:
        """Makes the resource anew if it was on this device and has ended with its task."""
        if device == self._device:
            self._remake()

    def _remake(self) -> None:
        with tf.init_scope(), tf.device(self._device):
            self._handle = self._make()
