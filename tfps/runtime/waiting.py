"""Waits for what other threads and other tasks do. Each has a time limit and says what it waits for.

Threading: any thread. An interrupt of the user ends a wait within a second.
"""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tfps.errors import ClusterTimeoutError

T = TypeVar("T")

_CHECK_EVERY_S = 1.0
"""How often a wait checks whether the tasks live."""


def _no_check() -> None:
    """For waits that do not depend on other tasks."""


@dataclasses.dataclass(frozen=True)
class Wait:
    """A wait before it begins.

    Args:
        what: is waited for, for the message: "closures of up to 3 steps".
        timeout_s: seconds until it fails.
        check: raises if what is waited for can never come, as a parameter server is dead. TensorFlow does not always
            say so.
    """

    what: str
    timeout_s: float
    check: Callable[[], None] = _no_check


def wait_for(results: "queue.SimpleQueue[T]", wait: Wait) -> T:
    """Takes the next result of a queue.

    Raises:
        ClusterTimeoutError: none came in time.
    """
    deadline = time.monotonic() + wait.timeout_s
    while (remaining := deadline - time.monotonic()) > 0:
        try:
            return results.get(timeout=min(remaining, _CHECK_EVERY_S))
        except queue.Empty:
            wait.check()
    raise ClusterTimeoutError(f"waited {wait.timeout_s:.0f} s for {wait.what}.")


def call_within(function: Callable[[], T], wait: Wait) -> T:
    """Calls a function in a thread of its own and waits for it; after the time limit nobody reads its result.

    Raises:
        ClusterTimeoutError: it did not return in time.
        Exception: what the function raised.
    """
    results: queue.SimpleQueue[tuple[bool, object]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((True, function()))
        except Exception as error:
            results.put((False, error))

    # A daemon, as a call into TensorFlow may never return, and the process must still be able to end.
    threading.Thread(target=run, daemon=True, name="tfps-call-within").start()
    succeeded, value = wait_for(results, wait)
    if not succeeded:
        assert isinstance(value, Exception)
        raise value
    return value  # type: ignore[return-value]  # what `function` returned
