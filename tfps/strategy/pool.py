"""One thread of the chief for each worker, which runs one closure at a time there.

Threading: `submit` from any thread. Errors of a closure come out of its future, translated.
"""

import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import tensorflow as tf

from tfps.errors import ClusterTimeoutError

_CHECK_EVERY_S = 1.0
"""How often a wait looks whether the servers live."""


class WorkerPool:
    """Runs functions on workers.

    Args:
        devices: of the workers.
        translate: turns an error of TensorFlow's runtime into one of ours.
        check: raises if a server has died; asked while waiting.
    """

    def __init__(
        self, devices: list[str], translate: Callable[[Exception], Exception], check: Callable[[], None]
    ) -> None:
        self.devices = devices
        self._check = check
        self._translate = translate
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"tfps-worker-{i}") for i in range(len(devices))]

    def submit(self, worker: int, function: Callable[[], Any]) -> Future[Any]:
        """Runs `function` with ops placed on a worker; its result, a structure of tensors, comes as numpy."""
        return self._threads[worker].submit(self._run, self.devices[worker], function)

    def _run(self, device: str, function: Callable[[], Any]) -> Any:
        try:
            with tf.device(device):
                return tf.nest.map_structure(lambda t: t.numpy(), function())
        except tf.errors.OpError as error:
            raise self._translate(error) from error

    def wait_any(self, futures: Collection[Future[Any]], what: str, timeout_s: float) -> set[Future[Any]]:
        """Waits until one of `futures` is done; returns those that are.

        Raises:
            TaskDiedError: a server died meanwhile.
            ClusterTimeoutError: none was done in time; the message says `what` was waited for.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            done, _ = wait(futures, _CHECK_EVERY_S, FIRST_COMPLETED)
            if done:
                return done
            self._check()
        raise ClusterTimeoutError(f"waited {timeout_s:.0f} s for {what}; no worker was done with one.")

    def result(self, future: Future[Any], what: str, timeout_s: float) -> Any:
        """The result of one future; errors as in `wait_any`, and those of the closure."""
        self.wait_any([future], what, timeout_s)
        return future.result()

    def close(self) -> None:
        """Waits for what runs, drops what waits."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
