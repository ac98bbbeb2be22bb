"""Records servers and workers of a strategy for a while, beside training.

Cost: a call of a graph at the begin and one at the end. In between each operation of a recorded task takes about a
microsecond more. Not recorded tasks, and a strategy without a capture, have no cost.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Collection

import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices, worker_functions
from tfps.diagnosis import recording
from tfps.diagnosis.report import Recording
from tfps.errors import TfpsError, UnsupportedError
from tfps.runtime.waiting import Wait, call_within
from tfps.strategy.strategy import ParameterServerStrategy

_LIMIT_S = 60.0
"""Seconds to wait for the tasks at the begin and at the end of a capture."""
_DROP_S = 10.0
"""Seconds to wait for the tasks to drop a recording. One that is lost answers nobody."""
_OTHERS = threading.Lock()
"""Held while a capture of this program lasts: a task has one profiler."""
_SLACK_S = 120.0
"""Seconds by which a task ends a recording later than the chief would."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A task that is recorded."""

    job: str
    index: int
    host: str


def choose_tasks(strategy: ParameterServerStrategy, workers: Collection[int] | None) -> list[Task]:
    """Returns the tasks of a strategy that a capture records: all servers, and some workers.

    Args:
        strategy: the strategy.
        workers: the numbers of the workers; None for all.
    """
    spec = strategy._cluster_resolver.cluster_spec().as_dict()
    chosen = range(len(spec.get(jobs.WORKER, []))) if workers is None else sorted(workers)
    wanted = [(jobs.WORKER, index) for index in chosen]
    wanted += [(jobs.PS, index) for index in range(len(spec.get(jobs.PS, [])))]
    return [Task(job, index, spec[job][index].rpartition(":")[0]) for job, index in wanted]


class Capture:
    """A recording of some tasks. `start` and `stop` return at once; threads of this object call the tasks.

    Threading: one thread calls the methods. A program has one capture at a time; another one fails.

    Args:
        tasks: the tasks.
        most_s: the most seconds that the recording lasts.
    """

    def __init__(self, tasks: Collection[Task], most_s: float) -> None:
        self._tasks, self._most_s = list(tasks), most_s
        self._started = threading.Event()
        self._begun_at = float("inf")
        self._is_only = False
        self._recordings: list[Recording] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(self._begin,), name="tfps-capture", daemon=True)

    def start(self) -> None:
        """Begins to record."""
        self._thread.start()

    @property
    def seconds(self) -> float:
        """How long the tasks have been recorded; 0 before they are."""
        return max(0.0, time.monotonic() - self._begun_at)

    @property
    def has_failed(self) -> bool:
        """Whether the tasks could not be recorded."""
        return self._error is not None

    def stop(self, then: Callable[[list[Recording]], None]) -> None:
        """Ends the recording, and hands it to a function, in the thread of this object."""

        def end() -> None:
            then(self._end())

        before, self._thread = (
            self._thread,
            threading.Thread(target=self._run, args=(end,), name="tfps-capture", daemon=True),
        )
        before.join(_LIMIT_S)
        self._thread.start()

    def drop(self) -> None:
        """Ends the recording, and keeps nothing of it: the `fit` has failed. Waits for this for some seconds."""
        before = self._thread
        if before.ident is None:
            return

        def end() -> None:
            before.join(_LIMIT_S)
            if self._is_only:
                try:
                    call_within(lambda: self._call("drop", []), Wait("the end of a recording", _DROP_S))
                finally:
                    self._release()

        self._thread = threading.Thread(target=self._run, args=(end,), name="tfps-capture", daemon=True)
        self._thread.start()
        self._thread.join(_DROP_S)

    def _release(self) -> None:
        """Lets another capture of this program begin."""
        self._is_only = False
        _OTHERS.release()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the end of what `stop` has begun; returns whether it came in time.

        Raises:
            TfpsError: the tasks could not be recorded, or the function of `stop` has raised it.
            tf.errors.OpError: a task was lost.
            OSError: this machine has no room for the recordings.
        """
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def _run(self, call: Callable[[], None]) -> None:
        if self._error is None:
            try:
                call()
            except (TfpsError, tf.errors.OpError, OSError) as error:
                self._error = error

    def _begin(self) -> None:
        if not _OTHERS.acquire(blocking=False):
            raise UnsupportedError("another profile runs in this program. Valid: one profile at a time.")
        self._is_only = True
        limit = self._most_s + _SLACK_S
        try:
            call_within(lambda: self._call("start", [limit]), Wait("the begin of a recording", _LIMIT_S))
        except BaseException:
            self._release()
            raise
        self._begun_at = time.monotonic()

    def _end(self) -> list[Recording]:
        try:
            found = call_within(lambda: self._call("stop", []), Wait("the recordings of the tasks", _LIMIT_S))
        finally:
            self._release()
        return [Recording(task.job, task.index, task.host, data) for task, data in zip(self._tasks, found, strict=True)]

    def _call(self, name: str, inputs: list[float]) -> list[bytes]:
        """Calls a function of `recording` on all tasks at once."""

        @tf.function(autograph=False)
        def call() -> list[tf.Tensor]:
            results = []
            for task in self._tasks:
                with tf.device(devices.task_device(task.job, task.index)):
                    given = [tf.constant(value, tf.float32) for value in inputs]
                    (result,) = worker_functions.call(recording.__name__, name, given, [tf.string])
                    results.append(result)
            return results

        try:
            return [result.numpy() for result in call()]
        except tf.errors.OpError as error:
            # What a task says of itself, without what TensorFlow puts around it.
            raise worker_functions.find_error(str(error)) or error from None
