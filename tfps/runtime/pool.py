"""`WorkerPool`: a thread of the chief for each worker, which runs one closure at a time on its worker."""

import atexit
import functools
import time
import weakref
from collections.abc import Callable

from tfps.errors import ClusterTimeoutError
from tfps.runtime.calls import Calls
from tfps.runtime.gate import Gate
from tfps.runtime.task_thread import TaskThread
from tfps.types import Nest

_CLOSE_S = 10.0
"""Seconds that `close` waits for the closures under way."""


class WorkerPool:
    """Runs functions on workers.

    Ownership: the pool ends its threads at `close` or at the end of the process, because a thread inside TensorFlow
    must not outlive TensorFlow. Threading: any thread.

    Args:
        devices: the device of each worker.
        translate: a function that turns an error of TensorFlow, in a call on a worker, into an error of tfps.
        check: a function that raises if a parameter server has died. Every wait calls it from time to time.
        gate: lets calls pass, except while tasks are replaced; None for one of its own.

    Attributes:
        threads: the thread of each worker.
    """

    def __init__(
        self,
        devices: list[str],
        translate: Callable[[int, Exception], Exception],
        check: Callable[[], None],
        gate: Gate | None = None,
    ) -> None:
        self.devices = devices
        gate = gate or Gate()
        self.check = check
        self.threads = [
            TaskThread(f"tfps-worker-{worker}", device, functools.partial(translate, worker), gate)
            for worker, device in enumerate(devices)
        ]
        self._abandoned: list[Calls] = []
        # By a weak reference, because `atexit` would otherwise keep every pool alive until the process ends.
        atexit.register(_close, weakref.ref(self))

    def run_later(self, worker: int, function: Callable[[], None]) -> None:
        """Queues `function` for the thread of a worker, after the earlier functions. It must not raise."""
        self.threads[worker].run_later(function)

    def call(self, worker: int, function: Callable[[], Nest]) -> Nest:
        """Runs `function` with a worker as the device, and returns its structure of tensors as numpy arrays."""
        return self.threads[worker].call(function)

    def add_abandoned(self, calls: Calls) -> None:
        """Keeps calls that may still run although their caller has given up, for `wait_for_abandoned`."""
        self._abandoned.append(calls)

    def wait_for_abandoned(self, timeout_s: float) -> None:
        """Waits for the abandoned calls, because they may still change the variables of a model.

        Args:
            timeout_s: the number of seconds to wait for the calls of one caller.

        Raises:
            ClusterTimeoutError: the calls did not end in time.
        """
        # A caller stays in the list until its calls have ended, so that a second wait also waits for them.
        while self._abandoned:
            if not self._abandoned[-1].wait_until_ended(timeout_s):
                raise ClusterTimeoutError(f"waited {timeout_s:.0f} s for the steps of an interrupted `fit` to end.")
            self._abandoned.pop()

    def busy_s(self) -> list[float]:
        """Returns for each worker the seconds so far in which it was running a call."""
        return [thread.busy_s() for thread in self.threads]

    def close(self) -> None:
        """Drops the queued functions, and waits some seconds for the running ones to end."""
        for thread in self.threads:
            thread.close()
        # One deadline for all threads: closing takes no longer with many workers.
        deadline = time.monotonic() + _CLOSE_S
        for thread in self.threads:
            thread.join(deadline - time.monotonic())


def _close(pool: "weakref.ref[WorkerPool]") -> None:
    """Closes a pool at the end of the process, if it still exists."""
    alive = pool()
    if alive is not None:
        alive.close()
