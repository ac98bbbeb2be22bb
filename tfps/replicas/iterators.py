"""Frees the iterators of datasets without making the training loop wait.

An iterator ends with the thread that tunes its buffers. TensorFlow wakes that thread before it sets the flag that the
thread looks at, so about every other time the thread goes back to sleep: for as long as the iterator has lived, and up
to a minute. Keras drops an iterator after every epoch, and would wait for it, with Python's lock held.

Threading: an iterator may be freed by any thread, as Python's garbage collector decides; a thread of its own drops it.
"""

import contextlib
import threading
import time
import weakref

import tensorflow as tf

from tfps.cluster import devices

_HAND_OVER_S = 0.05
"""The time in which the caller drops its reference, so that the thread has the last one."""
_WATCHED: "weakref.WeakSet[tf.data.Iterator]" = weakref.WeakSet()


def free_in_background(iterator: tf.data.Iterator) -> None:
    """Lets a thread free an iterator once the program has dropped it. A second call does nothing."""
    if iterator in _WATCHED:
        return
    _WATCHED.add(iterator)
    # At the end of the program there is nobody to wait.
    weakref.finalize(iterator, _hand_over, iterator._iterator_resource).atexit = False


def _hand_over(handle: tf.Tensor) -> None:
    # The handle is of no use any more if the program has connected to a cluster since.
    with contextlib.suppress(tf.errors.OpError), tf.init_scope(), tf.device(devices.CPU):
        queue = tf.queue.FIFOQueue(1, [tf.resource], [[]])
        # The queue keeps the iterator alive.
        queue.enqueue(handle)
        threading.Thread(target=_drop, args=(queue,), name="tfps-free-iterator", daemon=True).start()


def _drop(queue: tf.queue.QueueBase) -> None:
    time.sleep(_HAND_OVER_S)
    with contextlib.suppress(tf.errors.OpError):
        _take(queue.queue_ref)


@tf.function(autograph=False)
def _take(queue: tf.Tensor) -> tf.Tensor:
    # The handle never gets to Python, whose lock is free while TensorFlow ends the iterator.
    taken = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.resource])
    with tf.control_dependencies(taken):
        return tf.constant(0)
