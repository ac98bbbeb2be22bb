"""Python functions that take turns: each runs in a thread of its own, and only one of them runs at a time.

The devices of a worker trace the same step, each on its part of the batch. Where the step applies an optimizer, each
waits until the others are there too. A trace cannot be interrupted otherwise: it is the Python code of a model.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx  # whether AutoGraph is on is not public


class _CancelledError(BaseException):
    """Ends a function that waits for its turn, because another one has failed."""


class TurnTaker:
    """A function that runs in a thread of its own, in the graph of the thread that creates it.

    Threading: `resume` and `cancel` are called by the creator's thread, and `pause` by the function itself.

    Args:
        function: the function.
        thread_state: enters what is local to the creator's thread; the function runs within.
    """

    def __init__(self, function: Callable[[], Any], thread_state: contextlib.AbstractContextManager[None]) -> None:
        self._function, self._thread_state = function, thread_state
        self._graph = tf.compat.v1.get_default_graph()
        self._autograph = ag_ctx.control_status_ctx().status
        self._begin, self._end = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._is_cancelled = False
        self.is_done = False
        self.result: Any = None
        # The stacks of devices and the like of a graph belong to a thread from here on.
        self._graph.switch_to_thread_local()
        self._thread = threading.Thread(target=self._run, daemon=True, name="tfps-device")
        self._thread.start()

    def resume(self) -> None:
        """Lets the function run until it pauses or ends; raises its error."""
        # The stack of names belongs to the graph, whatever the thread.
        names = self._graph._name_stack
        self._begin.release()
        self._end.acquire()
        self._graph._name_stack = names
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Waits for the next turn."""
        names = self._graph._name_stack
        self._end.release()
        self._begin.acquire()
        self._graph._name_stack = names
        if self._is_cancelled:
            raise _CancelledError

    def cancel(self) -> None:
        """Ends the function where it waits, and waits for the end of its thread."""
        if not self.is_done:
            self._is_cancelled = True
            names = self._graph._name_stack
            self._begin.release()
            self._thread.join()
            self._graph._name_stack = names

    def _run(self) -> None:
        self._begin.acquire()
        try:
            if not self._is_cancelled:
                with self._graph.as_default(), ag_ctx.ControlStatusCtx(self._autograph), self._thread_state:
                    self.result = self._function()
        except _CancelledError:
            pass
        except BaseException as error:
            # It is raised in the thread that waits.
            self._error = error
        finally:
            self.is_done = True
            self._end.release()
