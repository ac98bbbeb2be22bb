"""`Pace`: judges again and again what sets the pace of a job that is watched, by the rules of `placement.bottleneck`.

Threading: the thread of the collector. Cost: arithmetic on readings that a snapshot has anyway.
"""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfps.monitoring.process import ProcessReading
from tfps.monitoring.record import JobCounts
from tfps.monitoring.snapshot import Bottleneck
from tfps.placement.bottleneck import Measurement, Task, judge, merge
from tfps.strategy.task_readings import Readings
from tfps.types import TaskKey

if TYPE_CHECKING:
    from tfps.strategy.strategy import ParameterServerStrategy

_WINDOW_S = 20.0
"""Seconds that a verdict is over: an epoch that ends or a checkpoint must not look like a bottleneck."""
_LEAST_S = 3.0
"""The fewest seconds of training in it: CPU time is counted in hundredths of a second."""


@dataclasses.dataclass(frozen=True)
class _Moment:
    """What was known at one moment.

    Args:
        at: the second.
        trains: whether the program trained.
        steps: the steps of training so far.
        busy_s: for each worker, the seconds in which it ran a call.
        readings: a reading of each task.
    """

    at: float
    trains: bool
    steps: int
    busy_s: Sequence[float]
    readings: Readings


class Pace:
    """Judges what limits the steps of the last seconds.

    Epochs may be shorter than the time between two moments, so moments of several epochs are joined.
    """

    def __init__(self) -> None:
        self._moments: collections.deque[_Moment] = collections.deque()
        self._judged_at = -float("inf")
        self._last: Bottleneck | None = None

    def judge(
        self, strategy: "ParameterServerStrategy", counts: JobCounts, readings: Readings, now: float
    ) -> Bottleneck | None:
        """Returns the bottleneck of the last seconds; None before it is known, and if nothing has trained in them.

        Args:
            strategy: the strategy.
            counts: what the job has done.
            readings: a reading of each task.
            now: the second of these readings.
        """
        trains = counts.phase == "train"
        self._moments.append(_Moment(now, trains, counts.steps, strategy.pool.busy_s(), readings))
        while now - self._moments[0].at > _WINDOW_S:
            self._moments.popleft()
        # What tasks do between two moments of which one is not of training may be other work.
        parts = [
            _measure(first, last, counts.fed)
            for first, last in itertools.pairwise(self._moments)
            if first.trains and last.trains and last.at > first.at
        ]
        whole = merge(parts) if parts else None
        if trains and whole is not None and whole.seconds >= _LEAST_S and whole.steps > 0:
            verdict = judge(whole)
            self._last, self._judged_at = Bottleneck(verdict.limit, verdict.advice), now
        elif now - self._judged_at > _WINDOW_S:
            self._last = None
        return self._last


def _measure(first: _Moment, last: _Moment, fed: bool) -> Measurement:
    """Returns what happened between two moments."""
    seconds = last.at - first.at
    tasks = [
        _task(key, before, after, seconds)
        for key, after in last.readings.items()
        # A task that was replaced meanwhile is another process.
        if after is not None and (before := first.readings.get(key)) is not None and before.pid == after.pid
    ]
    ran = sum(last.busy_s) - sum(first.busy_s)
    waiting = 1 - min(1.0, max(0.0, ran) / seconds / max(1, len(last.busy_s)))
    return Measurement(last.steps - first.steps, seconds, tuple(tasks), waiting, fed)


def _task(key: TaskKey, before: ProcessReading, after: ProcessReading, seconds: float) -> Task:
    used = (after.cpu_s - before.cpu_s) / seconds
    idle = min(1.0, (after.host_idle_s - before.host_idle_s) / seconds)
    return Task(*key, after.host, used, after.cores, after.host_cores, idle)
