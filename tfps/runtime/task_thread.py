"""The thread of the chief that leads one task: a worker, or the chief itself for what runs on all servers.

Threading: `run_later` and `busy_s` may be called from any thread; `call` runs where it is called, mostly in the thread.
Threads and queues are plain ones and daemons, not those of `concurrent.futures`: an interrupt that comes while these
take a lock leaves it locked, and the process, which joins such threads before anything else, never ends.
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
from tfps.types import Nest

TranslateError: TypeAlias = Callable[[Exception], Exception]
"""Turns an error of TensorFlow's runtime into one of ours."""


class TaskThread:
    """Runs functions one after the other with a task as the device.

    Ownership: `close` ends the thread; nothing waits for it at the end of the process.

    Args:
        name: of the thread.
        device: where the operations of the functions run.
        translate: for errors of `call`.
    """

    def __init__(self, name: str, device: str, translate: TranslateError) -> None:
        self.device = device
        self._translate = translate
        # An executor of its own, as TensorFlow reports an error of a task in whatever an executor does next.
        self._executor = new_executor(enable_async=False)
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        # Seconds it was busy before the function that runs now, and when that began. Replaced in one assignment,
        # because other threads read the two together.
        self._busy: tuple[float, float | None] = (0.0, None)
        self._thread = threading.Thread(target=self._work, daemon=True, name=name)
        self._thread.start()

    def run_later(self, function: Callable[[], None]) -> None:
        """Has the thread call `function`, which must not raise, after what it was given before."""
        if self._thread.is_alive():
            self._waiting.put(function)

    def drop_after(self, owner: object, handle: tf.Tensor) -> None:
        """Has the thread drop a handle of something on the task, some time after its owner was collected.

        Dropped elsewhere, a handle of a task that hangs would block one of TensorFlow's few threads of the chief until
        the task answers. This thread drops it between two functions: it waits for a task that hangs, and nobody else.

        Args:
            owner: uses the handle. It is collected in any thread.
            handle: nothing but the owner and calls under way may refer to it.
        """
        weakref.finalize(owner, self.run_later, functools.partial(_drop, handle)).atexit = False

    def call(self, function: Callable[[], Nest]) -> Nest:
        """Calls `function` with its operations on the task; its result, a structure of tensors, comes as numpy.

        Raises:
            TfpsError: what an error of TensorFlow's runtime means.
        """
        try:
            with context.executor_scope(self._executor), tf.device(self.device):
                return tf.nest.map_structure(lambda tensor: tensor.numpy(), function())
        except tf.errors.OpError as error:
            self._executor.clear_error()
            raise_translated(error, self._translate(error))

    def busy_s(self) -> float:
        """Seconds in which it ran functions, so far."""
        done, since = self._busy
        return done if since is None else done + time.monotonic() - since

    def close(self) -> None:
        """Drops what waits. What runs now runs to its end."""
        self._closed.set()
        self._waiting.put(None)

    def join(self, timeout_s: float) -> None:
        """Waits for the thread to end after `close`; no longer than that, as a call into TensorFlow may hang."""
        self._thread.join(max(0.0, timeout_s))

    def _work(self) -> None:
        while (function := self._waiting.get()) is not None and not self._closed.is_set():
            done, since = self._busy[0], time.monotonic()
            self._busy = done, since
            function()
            self._busy = done + time.monotonic() - since, None
            del function  # it refers to the batch, and to the pool


def _drop(handle: tf.Tensor) -> None:
    """Does nothing: when the call is over, nothing refers to the handle any more."""
