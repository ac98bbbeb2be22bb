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

from tfps.inputs.worker_input import Epoch
from tfps.runtime.losses import WorkerLostError
from tfps.runtime.pool import Calls, WorkerPool
from tfps.training.closure import Result
from tfps.training.geo.pace import Length, of_few_lengths, pace
from tfps.training.order import Order

_MOST_MISSED = 8
"""Windows (GEO) that each other worker may end or begin while one is under way."""

_IN_FLIGHT = 2
"""Closures a worker has: one runs, the next waits for it, so that a worker is never idle for a round trip."""

CLOSURES_AN_EPOCH = 8
"""Closures a worker's epoch is cut into at least, so that workers of a short one exchange what they learn."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """How a stream runs closures.

    Args:
        pool: of the workers.
        host_of: the worker that does the work of a shard.
        over_iterator: runs up to so many steps as the order says over the iterator of its shard.
        over_batches: runs a step over each of some batches of the chief.
        resume_shard: makes the iterator of a shard, whose worker is gone, begin elsewhere after what was taken of it.
        numbers: for each shard, steps that were ordered of it.
        read: the result that a closure returned.
        done: is told of each result that counts.
        most: steps a closure at most.
        timeout_s: seconds a closure may take.
        windows: whether a closure is a window (GEO): cut shorter than `most` only where workers would get none, and
            while the model is young.
        trained: steps that the model was trained for before this epoch.
        length: finds how long windows are to be, up to `most`; None where they have that many steps.
        windows_each: windows of a closure, or spans of one over an iterator; more than one where they overlap.
        fed_steps: steps of a closure over batches of the chief at most, where it is no window.
    """

    pool: WorkerPool
    host_of: Callable[[int], int]
    over_iterator: Callable[[Order], Any]
    over_batches: Callable[[Order, list[Any]], Any]
    resume_shard: Callable[[Epoch, int], None]
    numbers: list[int]
    read: Callable[[Any], Result]
    done: Callable[[Result], None]
    most: int
    timeout_s: float
    windows: bool = False
    trained: int = 0
    length: Length | None = None
    windows_each: int = 1
    fed_steps: Callable[[], int] = lambda: 1

    def order(self, shard: int, steps: int, window: int = 0) -> Order:
        """The next closure of a shard."""
        self.numbers[shard] += steps
        return Order(steps, shard, self.numbers[shard] - steps, window=window)


@dataclasses.dataclass(frozen=True)
class InFlight:
    """A closure under way: its order, and the chief's batches if it has some."""

    order: Order
    batches: list[Any] | None = None


def closure_steps(batches: int | None, workers: int, most: int, windows: bool = False) -> int:
    """Steps of a closure, so that each worker has some.

    Args:
        batches: of the epoch; None where nobody knows.
        workers: there are.
        most: steps of a closure, however long the epoch.
        windows: whether a closure is a window (GEO).
    """
    parts = workers * (1 if windows else CLOSURES_AN_EPOCH)
    return min(most, -(-batches // parts)) if batches else most


class Schedule(abc.ABC):
    """The steps of one epoch.

    Where a worker is lost, its shard of the input goes on elsewhere: closures that were under way are made again in
    their order, with the same numbers, so that servers know what of them they have seen.

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
        self._ended = [0] * len(self._busy)
        self._ended_before: list[list[int]] = [[] for _ in self._busy]
        self._to_repeat: list[list[InFlight]] = [[] for _ in self._busy]
        self._closure_steps = closure_steps(epoch.source.num_batches, len(self._busy), runner.most, runner.windows)

    def take(self, count: int) -> int:
        """Waits for up to `count` steps more to be done; returns how many, 0 at the end."""
        while self._ready < count:
            self._launch()
            if not self._calls:
                break
            self._take_result()
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
            self._take_result()
        self._ready = 0

    def settle(self) -> None:
        """Waits for what is under way, and begins nothing meanwhile; the epoch goes on after it."""
        while self._calls:
            self._take_result()

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch where it is: what has not begun is dropped, what runs has `timeout_s` to end."""
        self.budget = 0
        self._calls.abandon(timeout_s)

    def _pace(self) -> tuple[int, int]:
        """How many workers may be at work, and the steps of a closure."""
        if not self.runner.windows:
            return len(self._busy), self._closure_steps
        length = self.runner.length
        most = self._closure_steps if length is None else min(self._closure_steps, length.steps)
        trained = self.runner.trained + self._handed + self._ready
        # What overlaps is unseen for twice as long.
        return pace(trained if self.runner.windows_each == 1 else trained // 2, len(self._busy), most)

    def _asked(self, steps: int, shards: int) -> int:
        """Steps of the next closure: of as many windows as it may have, but so that there are some for each shard."""
        if self.budget is None:
            return steps * self.runner.windows_each
        windows = min(self.runner.windows_each, max(1, self.budget // (steps * shards)))
        return min(steps * windows, self.budget)

    @abc.abstractmethod
    def _launch(self) -> None:
        """Begins what can be begun."""

    @abc.abstractmethod
    def _on_result(self, flight: InFlight, result: Result) -> None:
        """Takes note of a closure that is done."""

    def _may_run_ahead(self, shard: int) -> bool:
        """Whether no window under way would miss too many of this shard's windows."""
        if not self.runner.windows:
            return True
        most = max(_IN_FLIGHT, _MOST_MISSED // self.runner.windows_each)
        begun = self._ended[shard] + self._busy[shard]
        return all(
            begun - before[shard] < most
            for other, before in enumerate(self._ended_before)
            if other != shard and self._busy[other]
        )

    def _began(self, shard: int) -> None:
        """The next closure of a shard runs from here on: what the others have ended it does not miss."""
        self._ended_before[shard] = list(self._ended)

    def _submit(self, flight: InFlight) -> None:
        if not self._busy[flight.order.shard]:
            self._began(flight.order.shard)
        self._busy[flight.order.shard] += 1
        function = functools.partial(self.runner.over_iterator, flight.order)
        if flight.batches is not None:
            function = functools.partial(self.runner.over_batches, flight.order, flight.batches)
        shard = flight.order.shard
        worker = self.runner.host_of(shard) if self.epoch.source.fed else self.epoch.hosts[shard]
        self._calls.submit(worker, flight, function, chain=shard)

    def _take_result(self) -> None:
        flight, value = self._calls.take()
        shard = flight.order.shard
        self._busy[shard] -= 1
        self._ended[shard] += 1
        self._began(shard)
        if isinstance(value, WorkerLostError):
            self._to_repeat[shard].append(flight)
            if not self._busy[shard]:
                self._repeat(shard)
        else:
            result = self.runner.read(value)
            if self.runner.length is not None:
                windows = max(1, -(-result.steps // (flight.order.window or self.runner.most)))
                self.runner.length.ran(result.steps // windows, self._calls.last_s / windows)
            self._on_result(flight, result)

    def _repeat(self, shard: int) -> None:
        """Makes the lost closures of a shard again, when all of them are known."""
        lost, self._to_repeat[shard] = self._to_repeat[shard], []
        self._calls.mend(shard)
        if not self.epoch.source.fed:
            self.runner.resume_shard(self.epoch, shard)
        for flight in sorted(lost, key=lambda flight: flight.order.first):
            self._submit(flight)

    def _count(self, flight: InFlight, result: Result) -> None:
        """The steps of a closure are part of the training."""
        self.runner.done(result)
        self._ready += result.steps
        self.epoch.taken[flight.order.shard] += result.steps


class ShippedSchedule(Schedule):
    """Each worker runs over its own shard of the input."""

    def __init__(self, runner: Runner, epoch: Epoch, budget: int | None) -> None:
        super().__init__(runner, epoch, budget)
        self._live = set(range(len(self._busy)))

    def _launch(self) -> None:
        workers, steps = self._pace()
        for turn in range(_IN_FLIGHT):
            shards = sorted(self._live)[:workers]
            for shard in shards:
                asked = self._asked(steps, len(shards))
                may = self._busy[shard] <= turn and self._may_run_ahead(shard)
                if may and asked > 0 and not self._to_repeat[shard]:
                    if self.budget is not None:
                        self.budget -= asked
                    self._submit(InFlight(self.runner.order(shard, asked, steps)))

    def _on_result(self, flight: InFlight, result: Result) -> None:
        self._count(flight, result)
        if result.steps < flight.order.steps:
            self._live.discard(flight.order.shard)
            if self.budget is not None:
                self.budget += flight.order.steps - result.steps


class FedSchedule(Schedule):
    """The chief reads batches and hands each to the worker with least to do."""

    def _launch(self) -> None:
        workers, steps = self._pace()
        if self.runner.windows:
            steps = of_few_lengths(steps, self._closure_steps)
        while (shard := self._idlest(workers)) is not None and (closures := self._next_closures(steps, workers)):
            for batches in closures:
                self._submit(InFlight(self.runner.order(shard, len(batches), steps), batches))

    def _idlest(self, workers: int) -> int | None:
        """The shard with least under way, of the first workers that live; None where all have enough."""
        live = [shard for shard in range(len(self._busy)) if self.runner.host_of(shard) == shard]
        free = [shard for shard in live[:workers] if self._busy[shard] < _IN_FLIGHT and self._may_run_ahead(shard)]
        return min(free, key=lambda shard: self._busy[shard], default=None)

    def _next_closures(self, steps: int, workers: int) -> list[list[Any]]:
        """The batches of the next closure; of several where too few are left for a whole one; none at the end.

        Closures are traced for each number of batches, so a rest is trained batch by batch, or in
        windows of few lengths.
        """
        if self.runner.windows:
            # All windows of a closure or one of them: no number in between, which would be traced as well.
            all_of_them = steps * self.runner.windows_each
            most = all_of_them if self._asked(steps, workers) == all_of_them else steps
        else:
            most = min(steps, self.runner.fed_steps())
        batches = list(itertools.islice(self.epoch, most if self.budget is None else min(most, self.budget)))
        if self.budget is not None:
            self.budget -= len(batches)
        if len(batches) < most:
            self.budget = 0
        if len(batches) == most:
            return [batches] if batches else []
        closures = []
        while batches:
            length = of_few_lengths(min(len(batches), steps), self._closure_steps) if self.runner.windows else 1
            closures.append(batches[:length])
            batches = batches[length:]
        return closures

    def _on_result(self, flight: InFlight, result: Result) -> None:
        self._count(flight, result)
