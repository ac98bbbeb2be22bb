"""Watches the first steps of a run and logs once what limits their speed and what to change.

Cost: the CPU times of all tasks are read twice, or twice an epoch where epochs are short. Once it has logged, none.
"""

import dataclasses
import logging
import time
from collections.abc import Callable

from tfps.placement.bottleneck import Measurement, Task, Verdict, judge, merge
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training import bfloat16_advice
from tfps.training.cpu_times import CpuTime, cpu_times

_LOG = logging.getLogger("tfps")
_WARM_CLOSURES = 2
"""Closures of each worker that are skipped: the first ones include one-time work such as creating variables."""
_CLOSURES = 4
"""The fewest closures of each worker that are watched: those under way at either end are seen only in part."""
_SECONDS = 2.0
"""The fewest seconds that are watched: CPU time is counted in hundredths of a second."""
_EPOCHS = 50
"""The most epochs that are watched: reading the CPU times of other machines takes milliseconds each time."""


class FirstSteps:
    """Counts the closures of a training loop, reads the CPU times of the cluster now and then, and logs one line.

    States: waiting for an epoch -> warm-up -> watching -> done, with a `verdict`. An epoch may end before it was
    watched long enough. The next epoch then adds to what was seen, for up to `_EPOCHS` epochs.
    Threading: the training loop's thread.

    Args:
        strategy: the strategy that runs the steps.
        is_float32: returns whether all of the model computes in float32.

    Attributes:
        verdict: the verdict that was logged; None before that.
    """

    def __init__(self, strategy: ParameterServerStrategy, is_float32: Callable[[], bool] = lambda: False) -> None:
        self._strategy, self._is_float32 = strategy, is_float32
        self._fed = False
        self._closures = self._steps = 0
        self._start: _Snapshot | None = None
        self._seen: list[Measurement] = []
        self._seen_closures = 0
        self._watches = False
        self.verdict: Verdict | None = None

    def begin_epoch(self, fed: bool) -> None:
        """Starts to watch an epoch.

        Args:
            fed: whether the chief reads its batches.
        """
        self._fed, self._closures, self._start = fed, 0, None
        self._watches = self.verdict is None and len(self._seen) < _EPOCHS
        if self._watches and self._seen:
            # An earlier epoch has had the warm-up.
            self._begin_watch()

    def count(self, steps: int) -> None:
        """Counts a finished closure of `steps` steps."""
        if not self._watches:
            return
        self._closures += 1
        self._steps += steps
        if self._start is not None:
            self._judge_if_enough()
        elif self._closures >= _WARM_CLOSURES * self._strategy.num_workers:
            self._begin_watch()

    def end_epoch(self) -> None:
        """Stops watching: after the epoch CPU time is spent on other work, such as an evaluation."""
        if self._watches and self._start is not None and self._closures:
            # This part is kept for the next epoch. The time between two epochs belongs to neither.
            self._seen.append(_Snapshot(self._strategy).since(self._start, self._steps, self._fed))
            self._seen_closures += self._closures
        self._start, self._watches = None, False

    def _begin_watch(self) -> None:
        self._start, self._closures, self._steps = _Snapshot(self._strategy), 0, 0

    def _judge_if_enough(self) -> None:
        assert self._start is not None
        # Earlier epochs count too: each alone may have been too short.
        seconds = time.monotonic() - self._start.at + sum(seen.seconds for seen in self._seen)
        closures = self._closures + self._seen_closures
        if seconds < _SECONDS or closures < _CLOSURES * self._strategy.num_workers:
            return
        seen = [*self._seen, _Snapshot(self._strategy).since(self._start, self._steps, self._fed)]
        measured = dataclasses.replace(merge(seen), shrinks=self._strategy.could_send_less)
        self.verdict, self._watches = judge(measured), False
        _LOG.info("%s", self.verdict.advice)
        # Where others limit the speed, faster workers would only wait for them.
        if self.verdict.limit == "workers" and self._is_float32():
            bfloat16_advice.advise(self._strategy)


class _Snapshot:
    """The CPU times of the cluster's tasks at one moment, and how long workers have run closures so far."""

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self.cpu = cpu_times(strategy)
        self.busy_s = strategy.pool.busy_s()
        self.at = time.monotonic()

    def since(self, start: "_Snapshot", steps: int, fed: bool) -> Measurement:
        """Returns what happened between an earlier snapshot and this one."""
        seconds = self.at - start.at
        # A task that is missing from one of the two snapshots is left out.
        before = {(time.job, time.index): time for time in start.cpu}
        pairs = [(before[time.job, time.index], time) for time in self.cpu if (time.job, time.index) in before]
        # `waiting` is the part of the time for which the threads of workers had no closure to run. A large part means
        # that the chief limits the speed.
        ran = sum(self.busy_s) - sum(start.busy_s)
        waiting = 1 - min(1.0, ran / seconds / len(self.busy_s))
        return Measurement(steps, seconds, tuple(_task(old, new, seconds) for old, new in pairs), waiting, fed)


def _task(old: CpuTime, new: CpuTime, seconds: float) -> Task:
    # Both are averages over the time watched: `used` in cores, `idle` as a part of the machine.
    used = (new.seconds - old.seconds) / seconds
    idle = min(1.0, (new.host_idle_s - old.host_idle_s) / seconds)
    return Task(new.job, new.index, new.host, used, new.cores, new.host_cores, idle)
