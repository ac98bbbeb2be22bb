"""Runs operations on a server one message at a time, where reading a variable and assigning it must not be parted.

Adding a delta is one operation, which TensorFlow makes atomic. Taking the greatest value, applying a constraint or
keeping a part of each element is a read and an assignment: of two messages at a time, one could be lost in between.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

_NAME = "tfps_exclusive"


@contextlib.contextmanager
def exclusive(operations: list[tf.Operation]) -> Iterator[None]:
    """Holds the lock of the current device, a server, until the operations have run.

    Args:
        operations: what is traced while the lock is held. The caller adds to the list; the release follows the others.
    """
    # A mutex of TensorFlow's runtime lives by its name, as a variable does. A lock that is not released, because an
    # operation fails, is freed together with its tensor.
    mutex = tf.raw_ops.MutexV2(container="", shared_name=_NAME)
    lock = tf.raw_ops.MutexLock(mutex=mutex)
    with tf.control_dependencies([lock]):
        yield
    with tf.control_dependencies(operations):
        operations.append(tf.raw_ops.ConsumeMutexLock(mutex_lock=lock))
