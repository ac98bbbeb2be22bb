"""Steps of one epoch, run by all workers and handed out to the training loop as they are done.

The loop (Keras's `fit`) asks for steps one at a time; the workers run many a closure, ahead of it. A step is handed out
once it is done, so callbacks see exactly the steps that were trained, and the log values they get may lag.
Threading: used by the training loop's thread; closures run on the pool's.
"""

import abc
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

from tfps.strategy.inputs import Epoch
from tfps.strategy.pool import Calls, WorkerPool
from tfps.training.closure import Result
from tfps.training.order import Order

_IN_FLIGHT = 2
"""Closures a worker has: one runs, the next waits for it, so that a worker is never idle for a round trip."""

_CLOSURES_AN_EPOCH = 8
"""Closures a worker's epoch is cut into at least, so that workers of a short one exchange what they learn."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """How a stream runs closures.

    Args:
        pool: of the workers.
        over_iterator: runs up to so many steps as the order says over a worker's iterator.
        over_batches: runs a step over each of some batches of the chief.
        read: the result that a closure returned.
        done: is told of each result that counts.
        most: steps a closure at most.
        timeout_s: seconds a closure may take.
        windows: whether a closure is a window (GEO): cut shorter than `most` only where workers would get none.
    """

    pool: WorkerPool
    over_iterator: Callable[[Order], Any]
    over_batches: Callable[[Order, list[Any]], Any]
    read: Callable[[Any], Result]
    done: Callable[[Result], None]
    most: int
    timeout_s: float
    windows: bool = False


class Stream(abc.ABC):
    """The steps of one epoch.

    Args:
        runner: runs them.
        epoch: their input.
        budget: how many there are at most; None for as many as the input has.
    """

    def __init__(self, runner: Runner, epoch: Epoch, budget: int | None) -> None:
        self.runner = runner
        self.epoch = epoch
        self.budget = budget
        self._ready = 0
        self._handed = 0
        self._whole = budget
        self._calls = Calls(runner.pool, f"closures of up to {runner.most} steps", runner.timeout_s)
        self._busy = [0] * len(runner.pool.devices)
        parts = len(self._busy) * (1 if runner.windows else _CLOSURES_AN_EPOCH)
        batches = epoch.source.num_batches
        self._closure_steps = min(runner.most, -(-batches // parts)) if batches else runner.most

    def take(self, count: int) -> int:
        """Waits for up to `count` steps more to be done; returns how many, 0 at the end."""
        while self._ready < count:
            self._launch()
            if not self._calls:
                break
            self._collect()
        given = min(count, self._ready)
        self._ready -= given
        self._handed += given
        return given

    @property
    def spent(self) -> bool:
        """Whether all steps of the budget were handed out: an input that goes on then begins another epoch."""
        return self._whole is not None and self._handed >= self._whole

    def join(self) -> None:
        """Waits for what is under way; nothing more is begun."""
        self.budget = 0
        while self._calls:
            self._collect()
        self._ready = 0

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch where it is: what has not begun is dropped, what runs has `timeout_s` to end."""
        self.budget = 0
        self._calls.abandon(timeout_s)

    @abc.abstractmethod
    def _launch(self) -> None:
        """Begins what can be begun."""

    @abc.abstractmethod
    def _landed(self, worker: int, asked: int, steps: int) -> None:
        """Takes note of a closure that did `steps` of `asked`."""

    def _fly(self, worker: int, asked: int, function: Callable[[], Any]) -> None:
        self._busy[worker] += 1
        self._calls.submit(worker, (worker, asked), function)

    def _collect(self) -> None:
        (worker, asked), vector = self._calls.take()
        self._busy[worker] -= 1
        result = self.runner.read(vector)
        self.runner.done(result)
        self._ready += result.steps
        self._landed(worker, asked, result.steps)


class ShippedStream(Stream):
    """Each worker runs over its own share of the input."""

    def __init__(self, runner: Runner, epoch: Epoch, budget: int | None) -> None:
        super().__init__(runner, epoch, budget)
        self._live = set(range(len(self._busy)))

    def _launch(self) -> None:
        for turn in range(_IN_FLIGHT):
            for worker in sorted(self._live):
                asked = self._closure_steps if self.budget is None else min(self._closure_steps, self.budget)
                if self._busy[worker] <= turn and asked > 0:
                    if self.budget is not None:
                        self.budget -= asked
                    self._fly(worker, asked, functools.partial(self.runner.over_iterator, Order(asked, worker)))

    def _landed(self, worker: int, asked: int, steps: int) -> None:
        if steps < asked:
            self._live.discard(worker)
            if self.budget is not None:
                self.budget += asked - steps


class FedStream(Stream):
    """The chief reads batches and hands each to the worker with least to do."""

    def _launch(self) -> None:
        while min(self._busy) < _IN_FLIGHT and (batches := self._next_batches()):
            worker = self._busy.index(min(self._busy))
            self._fly(
                worker, len(batches), functools.partial(self.runner.over_batches, Order(len(batches), worker), batches)
            )

    def _next_batches(self) -> list[Any]:
        """The batches of the next closure; none at the end."""
        most = self._closure_steps if self.runner.windows else 1
        batches = list(itertools.islice(self.epoch, most if self.budget is None else min(most, self.budget)))
        if self.budget is not None:
            self.budget -= len(batches)
        if len(batches) < most:
            self.budget = 0
        return batches

    def _landed(self, worker: int, asked: int, steps: int) -> None:
        """Nothing: each batch is a step."""
