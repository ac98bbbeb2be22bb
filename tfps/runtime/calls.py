"""`Calls`: the calls on workers that one caller has under way.

States of a call: submitted -> running -> ended. The caller takes its result once. If a call of a chain is lost with its
worker, the later calls of the chain do not run. They count as lost too, until the caller submits them again.
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
from tfps.runtime.waiting import Wait, wait_for, wait_until
from tfps.types import Nest

if TYPE_CHECKING:
    from tfps.runtime.pool import WorkerPool

_LOG = logging.getLogger("tfps")


@dataclasses.dataclass(frozen=True)
class CallResult:
    """The outcome of one call.

    Args:
        tag: the tag of the call.
        value: the result, with numpy arrays for tensors; None if the call failed or was dropped.
        error: the error of a call that failed; None otherwise.
        seconds: the run time of the call.
    """

    tag: Any
    value: Nest = None
    error: BaseException | None = None
    seconds: float = 0.0


class Calls:
    """The calls on workers that one caller has under way.

    Threading: one thread uses this object. The calls run in the threads of the pool, which several callers may share.

    Args:
        pool: the pool that runs the calls.
        what: a description of the calls for messages: "closures of up to 3 steps".
        timeout_s: the number of seconds to wait for a call.

    Attributes:
        last_s: the run time in seconds of the call whose result was taken last.
    """

    def __init__(self, pool: "WorkerPool", what: str, timeout_s: float) -> None:
        self._pool = pool
        self._wait = Wait(what, timeout_s, pool.check)
        self._results: queue.SimpleQueue[CallResult] = queue.SimpleQueue()
        # Set by the caller, and read by the threads of the pool before they begin a call.
        self._dropped = threading.Event()
        # The loss that broke each chain. Only the threads of the pool add to it while calls of the chain are under way.
        self._broken: dict[Hashable, WorkerLostError] = {}
        self._under_way = 0
        # A token for each call that runs now. The threads of the pool keep it, not the caller: an interrupt of the
        # caller between a result and its count would leave the count wrong for good.
        self._running: set[object] = set()
        self.last_s = 0.0

    def __len__(self) -> int:
        """The number of calls whose result was not taken yet."""
        return self._under_way

    def submit(self, worker: int, tag: Any, function: Callable[[], tf.Tensor], chain: Hashable = None) -> None:
        """Runs `function` on a worker, after the earlier calls on that worker.

        Args:
            worker: the number of the worker.
            tag: a value that comes back with the result.
            function: the function to run, as for `WorkerPool.call`.
            chain: the key of a chain of calls that build on each other; None for an independent call.
        """
        # The closure below must not hold `self`: a call that hangs would keep its caller alive.
        results, dropped, broken, pool = self._results, self._dropped, self._broken, self._pool
        running, token = self._running, object()

        def run() -> None:
            # Entered before the look at `dropped`: after `abandon`, an empty set means that nothing runs or will run.
            running.add(token)
            if dropped.is_set():
                results.put(CallResult(tag))
            elif chain is not None and chain in broken:
                results.put(CallResult(tag, error=broken[chain]))
            else:
                result = _run(tag, lambda: pool.call(worker, function))
                if isinstance(result.error, WorkerLostError):
                    broken[chain] = result.error
                results.put(result)
            running.discard(token)

        self._under_way += 1
        pool.run_later(worker, run)

    def mend(self, chain: Hashable) -> None:
        """Lets a chain run again after it has lost a call. No call of the chain may be under way."""
        self._broken.pop(chain, None)

    def take(self) -> tuple[Any, Nest]:
        """Waits until a call ends, and returns its tag and its result.

        If the worker of the call is lost, the result is the `WorkerLostError`. The caller must then submit the call
        again, on another worker.

        Raises:
            TaskDiedError: a server died during the wait.
            ClusterTimeoutError: no call ended in time.
        """
        result = self._next(self._wait)
        if isinstance(result.error, WorkerLostError):
            return result.tag, result.error
        if isinstance(result.error, TfpsError):
            # The message says everything. The traceback of the worker's thread would only hide it.
            raise result.error.with_traceback(None)
        if result.error is not None:
            raise result.error
        self.last_s = result.seconds
        return result.tag, result.value

    def limit_wait(self, timeout_s: float) -> None:
        """Lets `take` wait at most this number of seconds from now on."""
        self._wait = dataclasses.replace(self._wait, timeout_s=timeout_s)

    def abandon(self, timeout_s: float) -> None:
        """Drops the calls that have not begun, and waits up to `timeout_s` seconds for the running ones.

        Args:
            timeout_s: 0 for calls that change nothing, such as predictions: nobody has to know when they end.
        """
        self._dropped.set()
        # Before the wait, because the user may interrupt the wait.
        self._pool.add_abandoned(self)
        if timeout_s and not self.wait_until_ended(timeout_s):
            _LOG.warning(
                "%d %s are still running. Until they end, they may change the model; the next `fit` waits for them.",
                len(self._running),
                self._wait.what,
            )

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` seconds for abandoned calls that run, and returns whether all have ended."""
        try:
            wait_until(lambda: not self._running, Wait(self._wait.what, timeout_s))
        except ClusterTimeoutError:
            return False
        # Their results are dropped.
        self._under_way = 0
        return True

    def _next(self, wait: Wait) -> CallResult:
        """Waits for the next result."""
        result = wait_for(self._results, wait)
        self._under_way -= 1
        return result


def _run(tag: Any, call: Callable[[], Nest]) -> CallResult:
    """Runs a call and returns its outcome. It never raises."""
    began = time.monotonic()
    try:
        value = call()
    # Even a KeyboardInterrupt is a result: `take` raises it in the thread that can handle it, and a thread of the pool
    # must not end.
    except BaseException as error:
        return CallResult(tag, error=error)
    return CallResult(tag, value, seconds=time.monotonic() - began)
