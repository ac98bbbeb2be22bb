"""One thread of the chief for each worker, which runs one closure at a time there.

Threading: `submit` from any thread. Errors of a closure come out of its future, translated.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from tfps.errors import ClusterTimeoutError


class WorkerPool:
    """Runs functions on workers.

    Args:
        devices: of the workers.
        translate: turns an error of TensorFlow's runtime into one of ours.
    """

    def __init__(self, devices: list[str], translate: Callable[[Exception], Exception]) -> None:
        self.devices = devices
        self._translate = translate
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"tfps-worker-{i}") for i in range(len(devices))]

    def submit(self, worker: int, function: Callable[[], Any]) -> Future[Any]:
        """Runs `function` with ops placed on a worker; its result, a tensor there or a structure of them, comes as numpy."""
        return self._threads[worker].submit(self._run, self.devices[worker], function)

    def _run(self, device: str, function: Callable[[], Any]) -> Any:
        try:
            with tf.device(device):
                return tf.nest.map_structure(lambda t: t.numpy(), function())
        except tf.errors.OpError as error:
            raise self._translate(error) from error

    def require(self, landed: Any, what: str, timeout_s: float) -> None:
        """Raises if nothing landed in time, naming a task that has died if one has."""
        if not landed:
            raise self._translate(ClusterTimeoutError(f"waited {timeout_s:.0f} s for {what} on any worker."))

    def close(self) -> None:
        """Waits for what runs, drops what waits."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
