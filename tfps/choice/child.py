"""Calls a function in a forked child process, so that TensorFlow's runtime does not start in this one.

Whatever creates a variable or a tensor starts the runtime, and `MultiWorkerMirroredStrategy` must be made before that.
The child has this program's memory, so the function may be any function. Its result and its errors are sent back.

Cost: a fork, some milliseconds. Threading: no other thread may be in the middle of work for TensorFlow, which is so as
long as the runtime has not started.
"""

import contextlib
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from tensorflow.python.eager import context  # no public name says whether the runtime has started

from tfps.errors import PlanError

T = TypeVar("T")


def keep_runtime_unstarted(work: Callable[[], T]) -> T:
    """Calls a function, in a child if the runtime of this process has not started; returns its result.

    Raises:
        Exception: what the function raises. An error that cannot be sent comes as a `PlanError` with its text.
    """
    return work() if _has_started() else _run_in_child(work)


def _has_started() -> bool:
    return context.context()._context_handle is not None


def _run_in_child(work: Callable[[], T]) -> T:
    reader, writer = os.pipe()
    # Text that waits in a buffer would be written by both processes.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _send_result(work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not data:
        raise PlanError(
            f"`build_model` must return a model, but its process ended. Received: exit status {status} (if negative, a "
            "signal)."
        )
    result, error = pickle.loads(data)
    if error is not None:
        raise error
    value: T = result
    return value


def _send_result(work: Callable[[], Any], writer: int) -> NoReturn:
    """Runs in the child: calls the function, sends what comes of it, and ends."""
    try:
        try:
            # No card is needed to trace a step, and this process has seen the cards only before the fork.
            context.context().set_visible_devices([], "GPU")
            message = pickle.dumps((work(), None))
        # Sent to the parent, which raises it.
        except BaseException as error:  # noqa: BLE001
            message = _pack_error(error)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(message)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        # Not the exit of the program: its handlers belong to the parent.
        os._exit(0)


def _pack_error(error: BaseException) -> bytes:
    try:
        message = pickle.dumps((None, error))
        # Some errors can be written and not read.
        pickle.loads(message)
    # Whatever `pickle` finds in an error of the user's, the text can be sent.
    except Exception:
        text = f"`build_model` raised {type(error).__name__}: {error}"
        return pickle.dumps((None, PlanError(text)))
    return message
