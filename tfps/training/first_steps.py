"""Watches the first steps of a run and logs, once, what limits them and what to change.

Cost: the CPU times of all tasks are read twice, and in each epoch where epochs are short; nothing once it has spoken.
"""

import logging
import time

from tfps.placement.bottleneck import Measurement, Task, Verdict, judge, merge
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.cpu_times import CpuTime, cpu_times

_LOG = logging.getLogger("tfps")
_WARM_CLOSURES = 2
"""Closures a worker that are skipped: the first ones set up what later ones find."""
_CLOSURES = 4
"""Closures a worker that are watched, at least; what is under way at either end is a part of them."""
_SECONDS = 2.0
"""Seconds that are watched, at least: CPU time comes in hundredths."""
_EPOCHS = 50
"""Epochs that are watched, at most: reading the CPU times of other machines takes milliseconds each time."""


class FirstSteps:
    """A duty of the training loop: it counts closures, looks at the cluster now and then and logs one line.

    States: waiting for an epoch -> warm-up -> watching -> done, with a `verdict`. An epoch may end before enough was
    seen: then what was seen is kept and the next epoch adds to it, up to `_EPOCHS` of them.
    Threading: the training loop's thread.

    Args:
        strategy: whose steps they are.

    Attributes:
        verdict: what was logged; None before.
    """

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self._strategy = strategy
        self._fed = False
        self._closures = self._steps = 0
        self._start: _Look | None = None
        self._seen: list[Measurement] = []
        self._seen_closures = 0
        self._watches = False
        self.verdict: Verdict | None = None

    def begin_epoch(self, fed: bool) -> None:
        """An epoch begins.

        Args:
            fed: whether the chief reads its batches.
        """
        self._fed, self._closures, self._start = fed, 0, None
        self._watches = self.verdict is None and len(self._seen) < _EPOCHS
        if self._watches and self._seen:
            self._begin_watch()  # an epoch before has had the warm-up

    def count(self, steps: int) -> None:
        """A closure of so many steps is done."""
        if not self._watches:
            return
        self._closures += 1
        self._steps += steps
        if self._start is not None:
            self._judge_if_enough()
        elif self._closures >= _WARM_CLOSURES * self._strategy.num_workers:
            self._begin_watch()

    def end_epoch(self) -> None:
        """The epoch has ended: the CPU time from now on, as of an evaluation, is not that of training steps."""
        if self._watches and self._start is not None and self._closures:
            # Kept for the next epoch. The time between two epochs is not part of either.
            self._seen.append(_Look(self._strategy).since(self._start, self._steps, self._fed))
            self._seen_closures += self._closures
        self._start, self._watches = None, False

    def _begin_watch(self) -> None:
        self._start, self._closures, self._steps = _Look(self._strategy), 0, 0

    def _judge_if_enough(self) -> None:
        assert self._start is not None
        # Together with what epochs before have shown: each alone may have been too short.
        seconds = time.monotonic() - self._start.at + sum(seen.seconds for seen in self._seen)
        closures = self._closures + self._seen_closures
        if seconds < _SECONDS or closures < _CLOSURES * self._strategy.num_workers:
            return
        seen = [*self._seen, _Look(self._strategy).since(self._start, self._steps, self._fed)]
        self.verdict, self._watches = judge(merge(seen)), False
        _LOG.info("%s", self.verdict.advice)


class _Look:
    """The cluster at one moment: CPU time of its tasks, and how long the workers have run closures so far."""

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self.cpu = cpu_times(strategy)
        self.busy_s = strategy.pool.busy_s()
        self.at = time.monotonic()

    def since(self, start: "_Look", steps: int, fed: bool) -> Measurement:
        """What happened between an earlier look and this one."""
        seconds = self.at - start.at
        # A task that one of the looks could not read is left out.
        before = {(time.job, time.index): time for time in start.cpu}
        pairs = [(before[time.job, time.index], time) for time in self.cpu if (time.job, time.index) in before]
        # The part of the time in which the threads of workers had nothing to run: where it is large, the chief limits
        # the steps.
        ran = sum(self.busy_s) - sum(start.busy_s)
        waiting = 1 - min(1.0, ran / seconds / len(self.busy_s))
        return Measurement(steps, seconds, tuple(_task(old, new, seconds) for old, new in pairs), waiting, fed)


def _task(old: CpuTime, new: CpuTime, seconds: float) -> Task:
    used = (new.seconds - old.seconds) / seconds
    idle = min(1.0, (new.host_idle_s - old.host_idle_s) / seconds)
    return Task(new.job, new.index, new.host, used, new.cores, new.host_cores, idle)
