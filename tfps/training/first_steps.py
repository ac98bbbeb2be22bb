"""Watches the first steps of a run and logs, once, what limits them and what to change."""

import logging
import time

from tfps.placement.bottleneck import Task, Verdict, Watched, judge, together
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.cpu_times import CpuTime, cpu_times

_LOG = logging.getLogger("tfps")
_WARM_CLOSURES = 2
"""Closures a worker that are skipped: the first ones set up what later ones find."""
_CLOSURES = 4
"""Closures a worker that are watched, at least; what is under way at either end is a part of them."""
_SECONDS = 2.0
"""Seconds that are watched, at least: CPU time comes in hundredths."""
_STREAMS = 50
"""Streams, which are epochs, that are looked at for so long, at most: a look at another machine takes milliseconds."""


class FirstSteps:
    """A duty of the training loop: told of every closure, it looks at the cluster now and then and logs one line.

    States: waiting (for `began`) -> warm-up -> watching -> said. What was seen of a stream that ends is kept, and the
    next one adds to it, as epochs may be short; not for ever. Threading: the training loop's thread.

    Args:
        strategy: whose steps they are.
    """

    def __init__(self, strategy: ParameterServerStrategy) -> None:
        self._strategy = strategy
        self._fed = False
        self._closures = self._steps = 0
        self._start: _Look | None = None
        self._seen: list[Watched] = []
        self._seen_closures = 0
        self._under_way = False
        self.verdict: Verdict | None = None

    def began(self, fed: bool) -> None:
        """A stream of steps begins, whose batches the chief reads or the workers."""
        self._fed, self._closures, self._start = fed, 0, None
        self._under_way = self.verdict is None and len(self._seen) < _STREAMS
        if self._under_way and self._seen:
            self._watch()  # what the warm-up is for was done

    def done(self, steps: int) -> None:
        """A closure of so many steps is done."""
        if not self._under_way:
            return
        self._closures += 1
        self._steps += steps
        if self._start is not None:
            self._judge_if_enough()
        elif self._closures >= _WARM_CLOSURES * self._strategy.num_workers:
            self._watch()

    def ended(self) -> None:
        """The stream is at its end: what comes now, as an evaluation, is not the steps'."""
        if self._under_way and self._start is not None and self._closures:
            self._seen.append(_Look(self._strategy).since(self._start, self._steps, self._fed))
            self._seen_closures += self._closures
        self._start, self._under_way = None, False

    def _watch(self) -> None:
        self._start, self._closures, self._steps = _Look(self._strategy), 0, 0

    def _judge_if_enough(self) -> None:
        assert self._start is not None
        seconds = time.monotonic() - self._start.at + sum(seen.seconds for seen in self._seen)
        closures = self._closures + self._seen_closures
        if seconds < _SECONDS or closures < _CLOSURES * self._strategy.num_workers:
            return
        seen = [*self._seen, _Look(self._strategy).since(self._start, self._steps, self._fed)]
        self.verdict, self._under_way = judge(together(seen)), False
        _LOG.info("%s", self.verdict.advice)


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
