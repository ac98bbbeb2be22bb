"""One thread of the chief for each worker, which runs one closure at a time there.

Threading: a `Calls` is used by one thread; any number of them shard the pool. Results come through
`queue.SimpleQueue` and the threads are daemons, not the `concurrent.futures` kind: an interrupt that comes while those
take their locks leaves them held, and the process, which joins such threads before anything else, never ends.
"""

import atexit
import dataclasses
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context  # executors are not public
from tensorflow.python.eager.executor import new_executor

from tfps.cluster.faults import raise_translated
from tfps.errors import ClusterTimeoutError, TfpsError
from tfps.runtime.losses import WorkerLostError

_LOG = logging.getLogger("tfps")
_CHECK_EVERY_S = 1.0
"""How often a wait looks whether the servers live."""

_CLOSE_S = 10.0
"""Seconds a closure that runs may take to end when the pool is closed."""


@dataclasses.dataclass(frozen=True)
class Landed:
    """What became of one call: the tag it was submitted with, its result or its error, and how long it ran."""

    tag: Any
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0


class WorkerPool:
    """Runs functions on workers.

    Args:
        devices: of the workers.
        translate: turns an error of TensorFlow's runtime, in a call on a worker, into one of ours.
        check: raises if a server has died; asked while waiting.
    """

    def __init__(
        self, devices: list[str], translate: Callable[[int, Exception], Exception], check: Callable[[], None]
    ) -> None:
        self.devices = devices
        self.check = check
        self._translate = translate
        self._orders: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in devices]
        # Of its own for each, as TensorFlow reports what is wrong with a task in whatever an executor does next.
        self._executors = [new_executor(enable_async=False) for _ in devices]
        self._closed = threading.Event()
        self._left: list[Calls] = []
        self._ran: list[tuple[float, float | None]] = [(0.0, None)] * len(devices)
        self._threads = [
            threading.Thread(target=self._work, args=(index,), daemon=True, name=f"tfps-worker-{index}")
            for index in range(len(devices))
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(_close, weakref.ref(self))

    def order(self, worker: int, run: Callable[[], None]) -> None:
        """Has a worker's thread call `run`, after what it was ordered before."""
        self._orders[worker].put(run)

    def call(self, worker: int, function: Callable[[], Any]) -> Any:
        """Runs `function` with ops placed on a worker; its result, a structure of tensors, comes as numpy."""
        executor = self._executors[worker]
        try:
            with context.executor_scope(executor), tf.device(self.devices[worker]):
                return tf.nest.map_structure(lambda t: t.numpy(), function())
        except tf.errors.OpError as error:
            executor.clear_error()
            raise_translated(error, self._translate(worker, error))

    def leave(self, calls: "Calls") -> None:
        """Takes note of calls that nobody waits for, and that may still run."""
        self._left.append(calls)

    def settle(self, timeout_s: float) -> None:
        """Waits for calls that were left, before others use what they use.

        Raises:
            ClusterTimeoutError: they did not end in time.
        """
        while self._left:
            if not self._left[-1].ended(timeout_s):
                raise ClusterTimeoutError(f"waited {timeout_s:.0f} s for steps of a `fit` that was interrupted to end.")
            self._left.pop()

    def busy_s(self) -> list[float]:
        """For each worker the seconds in which it had a call to run, so far."""
        now = time.monotonic()
        return [done + (0.0 if since is None else now - since) for done, since in self._ran]

    def close(self) -> None:
        """Drops what waits, and gives what runs a while to end: a thread inside TensorFlow must not outlive it."""
        self._closed.set()
        for orders in self._orders:
            orders.put(None)
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, worker: int) -> None:
        orders = self._orders[worker]
        while (run := orders.get()) is not None and not self._closed.is_set():
            done, since = self._ran[worker][0], time.monotonic()
            self._ran[worker] = done, since  # in one assignment, as other threads read it
            run()
            self._ran[worker] = done + time.monotonic() - since, None
            del run  # it holds the batch, and the pool


class Calls:
    """Calls on workers that one caller has under way.

    Args:
        pool: runs them.
        what: is waited for, for messages.
        timeout_s: seconds to wait for any one of them.

    Attributes:
        last_s: seconds that the call ran whose result was taken last.
    """

    def __init__(self, pool: WorkerPool, what: str, timeout_s: float) -> None:
        self._pool, self._what, self._timeout_s = pool, what, timeout_s
        self._landed: queue.SimpleQueue[Landed] = queue.SimpleQueue()
        self._dropped = threading.Event()
        self._broken: dict[Hashable, WorkerLostError] = {}
        self._under_way = 0
        self.last_s = 0.0

    def __len__(self) -> int:
        """Calls submitted whose end was not taken."""
        return self._under_way

    def submit(self, worker: int, tag: Any, function: Callable[[], Any], chain: Hashable = None) -> None:
        """Runs `function` on a worker, after what that worker was given before.

        Args:
            worker: its number.
            tag: comes back with the result.
            function: as for `WorkerPool.call`.
            chain: of calls that build on one another: when one of them is lost, those that come after it are not made,
                and are lost too, until `mend`.
        """
        landed, dropped, broken, pool = self._landed, self._dropped, self._broken, self._pool

        def run() -> None:
            if dropped.is_set():
                landed.put(Landed(tag))
                return
            if chain is not None and chain in broken:
                landed.put(Landed(tag, error=broken[chain]))
                return
            began = time.monotonic()
            try:
                value = pool.call(worker, function)
                landed.put(Landed(tag, value, seconds=time.monotonic() - began))
            except BaseException as error:
                if isinstance(error, WorkerLostError):
                    broken[chain] = error
                landed.put(Landed(tag, error=error))

        self._under_way += 1
        pool.order(worker, run)

    def mend(self, chain: Hashable) -> None:
        """Calls of a chain that lost one are made again; none of it may be under way."""
        self._broken.pop(chain, None)

    def take(self) -> tuple[Any, Any]:
        """Waits for one call, whichever ends first; returns its tag and its result.

        The result of a call on a worker that is gone is the `WorkerLostError`: it has to be made again on another.

        Raises:
            TaskDiedError: a server died meanwhile.
            ClusterTimeoutError: none ended in time; the message says what was waited for.
        """
        landed = self._next(self._timeout_s, self._pool.check)
        if landed is None:
            raise ClusterTimeoutError(f"waited {self._timeout_s:.0f} s for {self._what}; no worker was done with one.")
        if isinstance(landed.error, WorkerLostError):
            return landed.tag, landed.error
        if isinstance(landed.error, TfpsError):
            raise landed.error.with_traceback(None)  # which is of the worker's thread, and longer than what it tells
        if landed.error is not None:
            raise landed.error
        self.last_s = landed.seconds
        return landed.tag, landed.value

    def abandon(self, timeout_s: float) -> None:
        """Drops the calls that have not begun and waits up to `timeout_s` for the others; their results are lost."""
        self._dropped.set()
        self._pool.leave(self)  # before the wait, which may be interrupted too
        if not self.ended(timeout_s):
            _LOG.warning(
                "%d %s still run: until they end, the model may change, and the next `fit` waits for them.",
                self._under_way,
                self._what,
            )

    def ended(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` for all calls, whose results are lost; returns whether they have ended."""
        deadline = time.monotonic() + timeout_s
        while self._under_way and self._next(deadline - time.monotonic(), lambda: None):
            pass
        return not self._under_way

    def _next(self, timeout_s: float, check: Callable[[], None]) -> Landed | None:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                landed = self._landed.get(timeout=min(left, _CHECK_EVERY_S))
            except queue.Empty:
                check()
                continue
            self._under_way -= 1
            return landed
        return None


def _close(reference: "weakref.ref[WorkerPool]") -> None:
    pool = reference()
    if pool is not None:
        pool.close()
