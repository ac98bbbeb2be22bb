"""`JobReader`: makes the snapshots of a strategy's job, for those who watch it.

Threading: the thread of the collector. Ownership: it keeps no reference to the strategy, which may be dropped while a
board is open. Cost: 5 ms of CPU for an embedded cluster of four processes; on other machines a call to each task,
beside training. No call waits longer than `_LIMIT_S`.
"""

import dataclasses
import math
import os
import pathlib
import socket
import sys
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfps import jobs
from tfps.errors import ClusterError
from tfps.monitoring.process import ProcessReading
from tfps.monitoring.rates import Rates
from tfps.monitoring.record import JobCounts, JobRecord
from tfps.monitoring.snapshot import CacheState, Snapshot, TaskState
from tfps.strategy.job_tables import TableReader, server_states
from tfps.strategy.pace import Pace
from tfps.strategy.task_readings import TaskReadings
from tfps.types import CachedCounts, TaskKey
from tfps.version import __version__

if TYPE_CHECKING:
    from tfps.strategy.strategy import ParameterServerStrategy


class JobReader:
    """Reads one strategy's job.

    Args:
        strategy: the strategy.
    """

    def __init__(self, strategy: "ParameterServerStrategy") -> None:
        self._strategy = weakref.ref(strategy)
        self._record: JobRecord = strategy.record
        self._rates = Rates()
        self._readings = TaskReadings(strategy)
        self._tables = TableReader()
        self._pace = Pace()

    @property
    def has_ended(self) -> bool:
        """Whether the strategy was dropped or has ended."""
        strategy = self._strategy()
        return strategy is None or strategy.connection.ended

    def read(self) -> Snapshot:
        """Returns the job at this moment.

        Raises:
            ClusterError: the strategy was dropped or has ended.
        """
        strategy = self._strategy()
        if strategy is None or strategy.connection.ended:
            raise ClusterError("the strategy of the job has ended.")
        # Before the counts: whatever was counted before this moment is in the snapshot.
        at = time.time()
        counts, now = self._record.counts(), time.monotonic()
        readings = self._readings.read(strategy)
        tasks = tuple(
            self._task(key, reading, counts, self._is_lost(strategy, key, counts), now)
            for key, reading in readings.items()
        )
        steps_per_s = self._rates.rate("steps", counts.steps, now)
        return Snapshot(
            at=at,
            began=self._record.began,
            name=job_name(),
            pid=os.getpid(),
            host=socket.gethostname(),
            version=__version__,
            phase=counts.phase,
            mode=counts.mode,
            epoch=counts.epoch,
            epochs=counts.epochs,
            epoch_step=counts.epoch_step,
            steps_per_epoch=counts.steps_per_epoch,
            steps=counts.steps,
            repeated_steps=counts.repeated_steps,
            examples=counts.examples,
            unique_rows=counts.unique_rows,
            test_steps=counts.test_steps,
            closures=counts.closures,
            steps_per_s=steps_per_s,
            examples_per_s=self._rates.rate("examples", counts.examples, now),
            unique_rows_per_s=self._rates.rate("rows", counts.unique_rows, now),
            metrics=read_metrics(counts.logs),
            tasks=tasks,
            tables=self._tables.read(strategy, counts, steps_per_s),
            servers=server_states(strategy, self._tables, tasks),
            drift=read_drift(counts.logs),
            checkpoint=counts.checkpoint,
            losses=counts.losses,
            losses_count=counts.losses_count,
            bottleneck=self._pace.judge(strategy, counts, readings, now),
            cache=self._cache(counts.cached, now),
        )

    def _cache(self, cached: CachedCounts, now: float) -> CacheState | None:
        """Returns what workers save by keeping rows; None if they have kept none."""
        asked, found, saved = (
            self._rates.rate(("cache", name), count, now)
            for name, count in (("asked", cached.asked), ("found", cached.found), ("bytes", cached.saved_bytes))
        )
        if not cached.asked:
            return None
        rate = found / asked if asked and found is not None else None
        return CacheState(cached.asked, cached.found, cached.saved_bytes, rate, saved)

    def _task(
        self, key: TaskKey, reading: ProcessReading | None, counts: JobCounts, is_lost: bool, now: float
    ) -> TaskState:
        (job, index), worker = key, counts.workers.get(key[1]) if key[0] == jobs.WORKER else None
        known = reading is not None and not is_lost
        state = TaskState(
            job,
            index,
            status="lost" if is_lost else "up" if known else "unknown",
            restarts=counts.returns_of.get(key, 0),
            steps=0 if worker is None else worker.steps,
            examples=0 if worker is None else worker.examples,
            staleness=None if worker is None else worker.staleness,
        )
        if job == jobs.WORKER:
            state = dataclasses.replace(
                state,
                steps_per_s=self._rates.rate((key, "steps"), state.steps, now),
                examples_per_s=self._rates.rate((key, "examples"), state.examples, now),
            )
        if reading is None or is_lost:
            return state
        # A task that was started again has another process, which counts anew.
        process = (key, reading.pid)
        return dataclasses.replace(
            state,
            host=reading.host,
            pid=reading.pid,
            cores=reading.cores,
            resident_bytes=reading.resident_bytes,
            cpu_cores=self._rates.rate((process, "cpu"), reading.cpu_s, now),
            received_bytes_per_s=self._rates.rate((process, "in"), reading.received_bytes, now),
            sent_bytes_per_s=self._rates.rate((process, "out"), reading.sent_bytes, now),
        )

    def _is_lost(self, strategy: "ParameterServerStrategy", key: TaskKey, counts: JobCounts) -> bool:
        job, index = key
        if job == jobs.WORKER and index in strategy.losses.lost:
            return True
        if any((loss.job, loss.index) == key and loss.back_at is None for loss in counts.losses):
            return True
        # Its end may not have reached the training loop yet.
        return strategy.cluster is not None and job != jobs.CHIEF and not strategy.cluster.is_back(job, index)


def job_name() -> str:
    """Returns the name of the job: that of its program."""
    return pathlib.Path(sys.argv[0]).name if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "python"


def read_drift(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns what GEO says of its windows in the logs; nothing in other modes."""
    metrics = read_metrics(logs)
    return {name: value for name, value in metrics.items() if name.startswith("geo_") and value is not None}


def read_metrics(logs: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns logs that are one number each; None for those that are not finite."""
    found: dict[str, float | None] = {}
    for name, value in logs.items():
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "fiub":
            number = float(array.reshape(()))
            found[name] = number if math.isfinite(number) else None
    return found
