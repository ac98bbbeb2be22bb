"""`TaskThread`: the thread of the chief that runs functions on one task.

The task is a worker, or the chief itself for functions whose operations go to all servers.

Threading: any thread may call `run_later` and `busy_s`. `call` runs in the thread of its caller, usually this thread.
The implementation uses plain daemon threads and queues instead of `concurrent.futures`. An interrupt at the moment when
`concurrent.futures` takes a lock leaves the lock taken, and the process then never ends, because it joins these threads
first.
"""

import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf
from tensorflow.python.eager import context  # executors are not public
from tensorflow.python.eager.executor import new_executor

from tfps.cluster.faults import raise_translated
from tfps.runtime.gate import Gate
from tfps.types import Nest

TranslateError: TypeAlias = Callable[[Exception], Exception]
"""Turns an error of TensorFlow into an error of tfps."""


class TaskThread:
    """Runs functions one after the other, with a task as the device.

    Ownership: `close` ends the thread. The end of the process does not wait for it.

    Args:
        name: the name of the thread.
        device: the device for the operations of the functions.
        translate: a function that translates the errors of `call`.
        gate: lets calls pass, except while tasks are replaced.
    """

    def __init__(self, name: str, device: str, translate: TranslateError, gate: Gate | None = None) -> None:
        self.device = device
        self._translate, self._gate = translate, gate or Gate()
        # Each thread has its own executor, because TensorFlow reports the error of a task in the next operation of the
        # executor, whatever its task.
        self._executor = new_executor(enable_async=False)
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        # The busy seconds before the current function, and the time when that function began. One assignment replaces
        # both, because other threads read them together without a lock.
        self._busy: tuple[float, float | None] = (0.0, None)
        self._thread = threading.Thread(target=self._work, daemon=True, name=name)
        self._thread.start()

    def run_later(self, function: Callable[[], None]) -> None:
        """Queues `function` for the thread, after the earlier functions. It must not raise."""
        # After the thread has ended nothing would empty the queue, so it takes no more functions.
        if self._thread.is_alive():
            self._waiting.put(function)

    def drop_after(self, owner: object, handle: tf.Tensor) -> None:
        """Drops the handle of a resource on the task, in this thread, some time after its owner is collected.

        If the task hangs, the thread that drops the handle waits until the task answers. Any other thread could be one
        of TensorFlow's few threads of the chief, and block everything. Here only the thread of the hanging task waits.

        Args:
            owner: the object that uses the handle. Python may collect it in any thread.
            handle: the handle. Only the owner and calls under way may refer to it.
        """
        # Not at exit: the process ends without waiting for a task.
        weakref.finalize(owner, self.run_later, functools.partial(_drop, handle)).atexit = False

    def call(self, function: Callable[[], Nest]) -> Nest:
        """Calls `function` with the task as the device, and returns its structure of tensors as numpy arrays.

        Ragged and sparse tensors stay what they are, and come to the chief.

        Raises:
            TfpsError: TensorFlow raised an error, and this is its translation.
        """
        try:
            with self._gate.passage(), context.executor_scope(self._executor), tf.device(self.device):
                return tf.nest.map_structure(_to_chief, function())
        except tf.errors.OpError as error:
            # Without this, the executor would raise the same error for its next function.
            self._executor.clear_error()
            raise_translated(error, self._translate(error))

    def busy_s(self) -> float:
        """Returns the seconds so far in which the thread was running functions."""
        done, since = self._busy
        return done if since is None else done + time.monotonic() - since

    @property
    def running_s(self) -> float:
        """The seconds for which the thread has been running its current function; 0 if it has none."""
        since = self._busy[1]
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Drops the queued functions. The function that runs now still runs to its end."""
        self._closed.set()
        # Wakes a thread that waits for its next function.
        self._waiting.put(None)

    def join(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` seconds for the thread to end after `close`. A call into TensorFlow may hang."""
        self._thread.join(max(0.0, timeout_s))

    def _work(self) -> None:
        """Runs the queued functions until `close`."""
        while (function := self._waiting.get()) is not None and not self._closed.is_set():
            done, since = self._busy[0], time.monotonic()
            self._busy = done, since
            function()
            self._busy = done + time.monotonic() - since, None
            # While the thread waits for the next function, this variable would keep a batch and the pool alive.
            del function


def _drop(handle: tf.Tensor) -> None:
    """Does nothing. The argument is the last reference to the handle, and it ends when this call returns."""


def _to_chief(tensor: Nest) -> Nest:
    """Returns a tensor as a numpy array, and a ragged or sparse tensor as one whose parts are on the chief."""
    if not isinstance(tensor, tf.__internal__.CompositeTensor):
        return tensor.numpy()
    # Without a device the parts are made on the chief.
    with tf.device(None):
        return tf.nest.map_structure(lambda part: tf.constant(part.numpy()), tensor, expand_composites=True)
