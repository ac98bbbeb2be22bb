"""A thread of the chief for each worker, which runs one closure at a time there."""

import atexit
import functools
import time
import weakref
from collections.abc import Callable

from tfps.errors import ClusterTimeoutError
from tfps.runtime.calls import Calls
from tfps.runtime.task_thread import TaskThread
from tfps.types import Nest

_CLOSE_S = 10.0
"""Seconds that closures under way have to end when the pool is closed."""


class WorkerPool:
    """Runs functions on workers.

    Ownership: it ends its threads, at `close` or at the end of the process: a thread inside TensorFlow must not outlive
    TensorFlow. Threading: any thread.

    Args:
        devices: of the workers.
        translate: turns an error of TensorFlow's runtime, in a call on a worker, into one of ours.
        check: raises if a parameter server has died; called while something is waited for.

    Attributes:
        threads: one a worker.
    """

    def __init__(
        self, devices: list[str], translate: Callable[[int, Exception], Exception], check: Callable[[], None]
    ) -> None:
        self.devices = devices
        self.check = check
        self.threads = [
            TaskThread(f"tfps-worker-{worker}", device, functools.partial(translate, worker))
            for worker, device in enumerate(devices)
        ]
        self._abandoned: list[Calls] = []
        atexit.register(_close, weakref.ref(self))

    def run_later(self, worker: int, function: Callable[[], None]) -> None:
        """Has the thread of a worker call `function`, which must not raise, after what it was given before."""
        self.threads[worker].run_later(function)

    def call(self, worker: int, function: Callable[[], Nest]) -> Nest:
        """Runs `function` with its operations on a worker; its result, a structure of tensors, comes as numpy."""
        return self.threads[worker].call(function)

    def add_abandoned(self, calls: Calls) -> None:
        """Keeps calls that nobody waits for, and that may still run, for `wait_for_abandoned`."""
        self._abandoned.append(calls)

    def wait_for_abandoned(self, timeout_s: float) -> None:
        """Waits for abandoned calls, before others use what they use.

        Raises:
            ClusterTimeoutError: they did not end in time.
        """
        while self._abandoned:
            if not self._abandoned[-1].wait_until_ended(timeout_s):
                raise ClusterTimeoutError(f"waited {timeout_s:.0f} s for steps of a `fit` that was interrupted to end.")
            self._abandoned.pop()

    def busy_s(self) -> list[float]:
        """For each worker the seconds in which it had a call to run, so far."""
        return [thread.busy_s() for thread in self.threads]

    def close(self) -> None:
        """Drops what waits, and gives what runs some seconds to end."""
        for thread in self.threads:
            thread.close()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self.threads:
            thread.join(deadline - time.monotonic())


def _close(pool: "weakref.ref[WorkerPool]") -> None:
    alive = pool()
    if alive is not None:
        alive.close()
