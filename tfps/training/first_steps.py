"""Watches the first steps of a run and logs, once, what limits them and what to change."""

import logging
import time

from tfps.placement.bottleneck import Task, Verdict, Watched, judge
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.cpu_times import CpuTime, cpu_times

_LOG = logging.getLogger("tfps")
_WARM_CLOSURES = 2
"""Closures a worker that are let pass: the first ones set up what later ones find."""
_CLOSURES = 4
"""Closures a worker that are watched, at least; what is under way at either end is a part of them."""
_SECONDS = 2.0
"""Seconds that are watched, at least: CPU time comes in hundredths."""


class FirstSteps:
    """A duty of the training loop: told of every closure, it looks at the cluster twice and logs one line.

    States: waiting (for `began`) -> warm-up -> watching -> said. A stream that ends before it was watched for long
    enough is forgotten, and the next one begins anew. Threading: the training loop's thread.

    Args:
        strategy: whose steps they are.
    """

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self._strategy = strategy
        self._fed = False
        self._closures = self._steps = 0
        self._start: _Look | None = None
        self._under_way = False
        self.verdict: Verdict | None = None

    def began(self, fed: bool) -> None:
        """A stream of steps begins, whose batches the chief reads or the workers."""
        self._fed, self._closures, self._start = fed, 0, None
        self._under_way = self.verdict is None

    def done(self, steps: int) -> None:
        """A closure of so many steps is done."""
        if not self._under_way:
            return
        self._closures += 1
        self._steps += steps
        if self._start is None and self._closures >= _WARM_CLOSURES * self._strategy.num_workers:
            self._start, self._closures, self._steps = _Look(self._strategy), 0, 0
        elif self._start is not None and self._is_enough(self._start):
            self.verdict = judge(_Look(self._strategy).since(self._start, self._steps, self._fed))
            self._under_way = False
            _LOG.info("%s", self.verdict.advice)

    def _is_enough(self, start: "_Look") -> bool:
        long_enough = time.monotonic() - start.at >= _SECONDS
        return long_enough and self._closures >= _CLOSURES * self._strategy.num_workers


class _Look:
    """What is seen of the cluster at one moment."""

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self.cpu = cpu_times(strategy)
        self.busy_s = strategy.pool.busy_s()
        self.at = time.monotonic()

    def since(self, start: "_Look", steps: int, fed: bool) -> Watched:
        """What happened between an earlier look and this one."""
        seconds = self.at - start.at
        before = {(time.job, time.index): time for time in start.cpu}
        pairs = [(before[time.job, time.index], time) for time in self.cpu if (time.job, time.index) in before]
        ran = sum(self.busy_s) - sum(start.busy_s)
        waiting = 1 - min(1.0, ran / seconds / len(self.busy_s))
        return Watched(steps, seconds, tuple(_task(old, new, seconds) for old, new in pairs), waiting, fed)


def _task(old: CpuTime, new: CpuTime, seconds: float) -> Task:
    used = (new.seconds - old.seconds) / seconds
    idle = min(1.0, (new.host_idle_s - old.host_idle_s) / seconds)
    return Task(new.job, new.index, new.host, used, new.cores, new.host_cores, idle)
