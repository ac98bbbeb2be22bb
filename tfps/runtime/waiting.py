"""Waits for other threads and other tasks. Every wait has a time limit and a description for its error message.

Threading: any thread. An interrupt by the user ends a wait within a second.
"""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tfps.errors import ClusterTimeoutError

_LOOK_S = 0.01
"""Seconds between two looks at a condition."""

T = TypeVar("T")

_CHECK_EVERY_S = 1.0
"""Seconds between two checks whether the tasks are alive."""


def _check_nothing() -> None:
    """Checks nothing, for waits that do not depend on other tasks."""


@dataclasses.dataclass(frozen=True)
class Wait:
    """The description of a wait.

    Args:
        what: the event to wait for, for the message: "closures of up to 3 steps".
        timeout_s: the number of seconds until the wait fails.
        check: a function that raises if the event can never come, because a parameter server is dead, say. TensorFlow
            does not always report that.
    """

    what: str
    timeout_s: float
    check: Callable[[], None] = _check_nothing


def wait_for(results: "queue.SimpleQueue[T]", wait: Wait) -> T:
    """Waits for the next result in a queue, and returns it.

    Raises:
        ClusterTimeoutError: no result came in time.
    """
    # Short waits in a loop, and not one long wait, so that dead tasks and interrupts are seen.
    deadline = time.monotonic() + wait.timeout_s
    while (remaining := deadline - time.monotonic()) > 0:
        try:
            return results.get(timeout=min(remaining, _CHECK_EVERY_S))
        except queue.Empty:
            wait.check()
    raise ClusterTimeoutError(f"waited {wait.timeout_s:.0f} s for {wait.what}.")


def wait_until(condition: Callable[[], bool], wait: Wait) -> None:
    """Waits until a condition holds that other threads bring about.

    It looks a hundred times a second. A lock or a condition variable would be left locked by an interrupt.

    Raises:
        ClusterTimeoutError: the condition did not hold in time.
    """
    deadline = time.monotonic() + wait.timeout_s
    next_check = time.monotonic() + _CHECK_EVERY_S
    while not condition():
        if (now := time.monotonic()) > deadline:
            raise ClusterTimeoutError(f"waited {wait.timeout_s:.0f} s for {wait.what}.")
        if now > next_check:
            wait.check()
            next_check = now + _CHECK_EVERY_S
        time.sleep(_LOOK_S)


def call_within(function: Callable[[], T], wait: Wait) -> T:
    """Calls a function in a new thread and waits for its result. After the time limit, the result is dropped.

    Raises:
        ClusterTimeoutError: the function did not return in time.
        Exception: the function raised it.
    """
    # (True, the result) or (False, the exception).
    results: queue.SimpleQueue[tuple[bool, object]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((True, function()))
        except Exception as error:
            results.put((False, error))

    # A daemon thread, because a call into TensorFlow may never return and the process must still be able to end.
    threading.Thread(target=run, daemon=True, name="tfps-call-within").start()
    succeeded, value = wait_for(results, wait)
    if not succeeded:
        assert isinstance(value, Exception)
        raise value
    return value  # type: ignore[return-value]  # what `function` returned
