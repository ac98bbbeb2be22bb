"""Calls on workers that one caller has under way.

A call is submitted -> running -> ended; its result is taken once. Of a chain, when one call is lost with its worker,
those submitted after it are not made and count as lost too, until the caller submits them again.
"""

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfps.errors import ClusterTimeoutError, TfpsError
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.waiting import Wait, wait_for
from tfps.types import Nest

if TYPE_CHECKING:
    from tfps.runtime.pool import WorkerPool

_LOG = logging.getLogger("tfps")


@dataclasses.dataclass(frozen=True)
class CallResult:
    """How one call ended.

    Args:
        tag: what it was submitted with.
        value: its result, as numpy; None if it failed or was dropped.
        error: why it failed.
        seconds: how long it ran.
    """

    tag: Any
    value: Nest = None
    error: BaseException | None = None
    seconds: float = 0.0


class Calls:
    """Calls on workers that one caller has under way.

    Threading: one thread uses it; the calls run in the threads of the pool, which any number of callers use.

    Args:
        pool: runs them.
        what: they are, for messages: "closures of up to 3 steps".
        timeout_s: seconds to wait for any one of them.

    Attributes:
        last_s: seconds that the call ran whose result was taken last.
    """

    def __init__(self, pool: "WorkerPool", what: str, timeout_s: float) -> None:
        self._pool = pool
        self._wait = Wait(what, timeout_s, pool.check)
        self._results: queue.SimpleQueue[CallResult] = queue.SimpleQueue()
        self._dropped = threading.Event()
        self._broken: dict[Hashable, WorkerLostError] = {}
        self._under_way = 0
        self.last_s = 0.0

    def __len__(self) -> int:
        """Calls submitted whose result was not taken."""
        return self._under_way

    def submit(self, worker: int, tag: Any, function: Callable[[], tf.Tensor], chain: Hashable = None) -> None:
        """Runs `function` on a worker, after what that worker was given before.

        Args:
            worker: its number.
            tag: comes back with the result.
            function: as for `WorkerPool.call`.
            chain: of calls that build on one another; None for a call by itself.
        """
        results, dropped, broken, pool = self._results, self._dropped, self._broken, self._pool

        def run() -> None:
            if dropped.is_set():
                results.put(CallResult(tag))
            elif chain is not None and chain in broken:
                results.put(CallResult(tag, error=broken[chain]))
            else:
                result = _run(tag, lambda: pool.call(worker, function))
                if isinstance(result.error, WorkerLostError):
                    broken[chain] = result.error
                results.put(result)

        self._under_way += 1
        pool.run_later(worker, run)

    def mend(self, chain: Hashable) -> None:
        """Lets the calls of a chain be made again after one was lost; none of it may be under way."""
        self._broken.pop(chain, None)

    def take(self) -> tuple[Any, Nest]:
        """Waits for one call, whichever ends first; returns its tag and its result.

        The result of a call on a worker that is gone is the `WorkerLostError`: it has to be made again on another.

        Raises:
            TaskDiedError: a server died meanwhile.
            ClusterTimeoutError: none ended in time; the message says what was waited for.
        """
        result = self._next(self._wait)
        if isinstance(result.error, WorkerLostError):
            return result.tag, result.error
        if isinstance(result.error, TfpsError):
            # Its traceback is of the worker's thread, and longer than what it tells.
            raise result.error.with_traceback(None)
        if result.error is not None:
            raise result.error
        self.last_s = result.seconds
        return result.tag, result.value

    def abandon(self, timeout_s: float) -> None:
        """Drops the calls that have not begun and waits up to `timeout_s` for the others; their results are lost.

        Args:
            timeout_s: 0 for calls that change nothing, such as predictions: they may end whenever they do.
        """
        self._dropped.set()
        self._pool.add_abandoned(self)  # before the wait, which the user may interrupt
        if timeout_s and not self.wait_until_ended(timeout_s):
            _LOG.warning(
                "%d %s still run: until they end, the model may change, and the next `fit` waits for them.",
                self._under_way,
                self._wait.what,
            )

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` for all calls, whose results are lost; returns whether they have ended."""
        deadline = time.monotonic() + timeout_s
        try:
            while self._under_way:
                self._next(Wait(self._wait.what, deadline - time.monotonic()))
        except ClusterTimeoutError:
            return False
        return True

    def _next(self, wait: Wait) -> CallResult:
        result = wait_for(self._results, wait)
        self._under_way -= 1
        return result


def _run(tag: Any, call: Callable[[], Nest]) -> CallResult:
    began = time.monotonic()
    try:
        value = call()
    except BaseException as error:  # whoever takes the result raises it, in the thread that can handle it
        return CallResult(tag, error=error)
    return CallResult(tag, value, seconds=time.monotonic() - began)
