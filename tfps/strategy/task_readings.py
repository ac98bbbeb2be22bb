"""`TaskReadings`: reads the processes of a strategy's tasks: here by their ids, on other machines by a call.

Threading: the thread of the collector calls `read`. Each task of another machine has a thread of its own, so that one
that hangs delays no other. Ownership: the connection of the strategy ends these threads.
"""

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import tensorflow as tf

from tfps import jobs
from tfps.cluster import devices, reach, worker_functions
from tfps.cluster.faults import translate
from tfps.cluster.local import LocalCluster
from tfps.cluster.spec import ClusterSpec
from tfps.errors import TfpsError
from tfps.monitoring.process import ProcessReader, ProcessReading, read_all
from tfps.runtime.pool import WorkerPool
from tfps.types import TaskKey

if TYPE_CHECKING:
    from tfps.strategy.strategy import ParameterServerStrategy

_LOG = logging.getLogger("tfps")
_LIMIT_S = 1.0
"""Seconds that a snapshot waits for tasks of other machines. The answer of one that is later is in the next one."""
_LOOK_S = 0.01
_CHIEF: TaskKey = (jobs.CHIEF, 0)

Readings = Mapping[TaskKey, ProcessReading | None]
"""A reading of each task; None for one that could not be read."""


class TaskReadings:
    """Reads all tasks of one strategy.

    Args:
        strategy: the strategy; it is not kept.
    """

    def __init__(self, strategy: "ParameterServerStrategy") -> None:
        self._chief = ProcessReader()
        self._here: dict[TaskKey, ProcessReader] = {}
        self._remote: _RemoteTasks | None = None

    def read(self, strategy: "ParameterServerStrategy") -> Readings:
        """Returns a reading of the chief, and of each server and worker."""
        cluster = strategy.connection.cluster
        if isinstance(cluster, LocalCluster):
            return self._read_here(cluster)
        if self._remote is None:
            self._remote = _RemoteTasks(strategy, cluster)
        (chief,) = read_all([self._chief])
        return {_CHIEF: chief, **self._remote.read(strategy.losses.lost)}

    def _read_here(self, cluster: LocalCluster) -> Readings:
        tasks = {(task.order.job, task.order.index): task for task in cluster.tasks}
        for key, task in tasks.items():
            if key not in self._here or self._here[key].pid != task.pid:
                self._here[key] = ProcessReader(task.pid)
        chief, *others = read_all([self._chief, *(self._here[key] for key in tasks)])
        found: dict[TaskKey, ProcessReading | None] = {_CHIEF: chief}
        for (key, task), reading in zip(tasks.items(), others, strict=True):
            threads = task.order.threads
            # A process of an embedded cluster may be limited to fewer threads than its machine has cores.
            if reading is not None and threads:
                reading = dataclasses.replace(reading, cores=min(threads, reading.cores))
            found[key] = reading
        return found


class _RemoteTasks:
    """Asks the tasks of other machines to read themselves.

    Args:
        strategy: the strategy, which makes the threads; it is not kept.
        spec: the addresses of the tasks.
    """

    def __init__(self, strategy: "ParameterServerStrategy", spec: ClusterSpec) -> None:
        self._tasks: list[tuple[TaskKey, str]] = [
            ((job, index), endpoint.dial) for job, index, endpoint in spec.servers()
        ]
        names = [devices.task_device(*key) for key, _ in self._tasks]
        self._pool: WorkerPool = strategy.pools.make(names, lambda _, error: translate(error, spec))
        self._found: dict[TaskKey, ProcessReading | None] = {}
        # The tasks that were asked and have not answered.
        self._asked: set[TaskKey] = set()

    def read(self, lost: frozenset[int]) -> Readings:
        """Returns the readings of all tasks that answer in time.

        Args:
            lost: the workers that are lost now. They are not asked.
        """
        alive = [number for number, (key, _) in enumerate(self._tasks) if key[0] != jobs.WORKER or key[1] not in lost]
        for number in alive:
            key = self._tasks[number][0]
            # One call of a task at a time: a task that hangs must not collect calls.
            if key not in self._asked:
                self._asked.add(key)
                self._found[key] = None
                self._pool.run_later(number, functools.partial(self._ask, number))
        deadline = time.monotonic() + _LIMIT_S
        while self._asked and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return {
            key: self._found.get(key) if number in alive and key not in self._asked else None
            for number, (key, _) in enumerate(self._tasks)
        }

    def _ask(self, number: int) -> None:
        """Asks one task, in its thread."""
        key, address = self._tasks[number]
        try:
            # A call that hangs would keep lost tasks from being taken back in, so a task that is silent gets none.
            if reach.answers(address):
                (text,) = self._pool.call(number, _read_process)
                self._found[key] = ProcessReading(**json.loads(text)) if text else None
        # A task that has just died, or a server that is not ours and has no such function.
        except (TfpsError, tf.errors.OpError, ValueError, TypeError) as error:
            _LOG.debug("%s %d does not say what it uses: %s", *key, error)
        finally:
            self._asked.discard(key)


def _read_process() -> list[tf.Tensor]:
    """Calls `read_here` on the task of the calling context."""
    return worker_functions.call("tfps.monitoring.process", "read", [], [tf.string])
