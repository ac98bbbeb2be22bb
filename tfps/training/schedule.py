"""The steps of one epoch, run by all workers and handed out to the training loop as they are done.

The loop (Keras's `fit`) asks for steps one at a time; the workers run many a closure, ahead of it. A step is handed out
once it is done, so callbacks see exactly the steps that were trained, and the log values they get may lag.

A closure goes through: ordered -> under way (it runs, or waits behind the one that runs) -> done, or lost. Lost
closures of a shard are made again, in their order and with the same numbers, once none of the shard is under way.
Threading: used by the training loop's thread; closures run on the pool's.
"""

import abc
import dataclasses
from collections.abc import Sequence

from tfps.inputs.epoch import Epoch
from tfps.runtime.losses import WorkerLostError
from tfps.training.closure import Result
from tfps.training.order import Order
from tfps.training.progress import Progress
from tfps.training.runner import Runner
from tfps.types import Nest


@dataclasses.dataclass(frozen=True)
class InFlight:
    """A closure under way.

    Args:
        order: its order.
        batches: that the chief feeds; None where it reads the worker's iterator.
    """

    order: Order
    batches: Sequence[Nest] | None = None


class Schedule(abc.ABC):
    """The steps of one epoch. Subclasses say when a closure is begun and what its result means.

    Args:
        runner: runs the closures.
        epoch: their input; it says how many steps there are at most.
        most: steps of a closure, for messages.

    Attributes:
        epoch: the input.
        budget: steps that may still be begun; None for as many as the input has.
        progress: the closures of each shard.
    """

    def __init__(self, runner: Runner, epoch: Epoch, most: int) -> None:
        self.runner, self.epoch = runner, epoch
        self.budget: int | None = epoch.source.steps_per_epoch
        self.progress = Progress(len(runner.workers.pool.devices))
        # `budget` counts down as steps are begun; this is what it was.
        self._whole_budget = self.budget
        self._ready = 0
        self._handed = 0
        self._calls = runner.calls(f"closures of up to {most} steps")
        self._to_repeat: list[list[InFlight]] = [[] for _ in range(len(self.progress))]

    def take(self, count: int) -> int:
        """Waits for up to `count` steps more to be done; returns how many, 0 at the end."""
        while self._ready < count:
            self._launch()
            # Nothing is under way and nothing could be begun: the input has ended, or the budget has.
            if not self._calls:
                break
            self._take_result()
        # A closure has more steps than the loop asks for at a time: the rest is handed out at the next calls.
        given = min(count, self._ready)
        self._ready -= given
        self._handed += given
        return given

    @property
    def spent(self) -> bool:
        """Whether all steps of the budget were handed out: an input that continues then begins another epoch."""
        return self._whole_budget is not None and self._handed >= self._whole_budget

    def join(self) -> None:
        """Waits for what is under way; nothing more is begun."""
        self.budget = 0
        while self._calls:
            self._take_result()
        self._ready = 0

    def settle(self) -> None:
        """Waits for what is under way, and begins nothing meanwhile; the epoch continues after it."""
        while self._calls:
            self._take_result()

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch where it is: what has not begun is dropped, what runs has `timeout_s` to end."""
        self.budget = 0
        # What runs may still push: it has a while to end, and the next epoch waits for it.
        self._calls.abandon(timeout_s)

    @abc.abstractmethod
    def _launch(self) -> None:
        """Begins what can be begun."""

    @abc.abstractmethod
    def _on_result(self, flight: InFlight, result: Result) -> None:
        """Acts on the result of a closure."""

    def _submit(self, flight: InFlight) -> None:
        shard = flight.order.shard
        self.progress.begin(shard)
        # Fed batches go to any worker that lives. An iterator is on the worker where the shard was started.
        worker = self.runner.workers.host_of(shard) if self.epoch.source.is_fed else self.epoch.hosts[shard]
        self._calls.submit(worker, flight, self.runner.call(self.epoch, flight.order, flight.batches), chain=shard)

    def _take_result(self) -> None:
        flight, value = self._calls.take()
        shard = flight.order.shard
        self.progress.end(shard)
        if isinstance(value, WorkerLostError):
            self._to_repeat[shard].append(flight)
            # Closures behind the lost one are lost too: `chain` keeps them from running before it. When the last of
            # them has come back, all are known.
            if not self.progress.under_way[shard]:
                self._repeat(shard)
        else:
            self._on_result(flight, self.runner.closures.read(value))

    def _repeat(self, shard: int) -> None:
        """Makes the lost closures of a shard again, when all of them are known."""
        lost, self._to_repeat[shard] = self._to_repeat[shard], []
        self._calls.mend(shard)
        if not self.epoch.source.is_fed:
            self.runner.closures.start_shard(self.epoch, shard)
        # In the order of their numbers: a server that has seen a number ignores all lower ones of the shard.
        for flight in sorted(lost, key=lambda flight: flight.order.first):
            self._submit(flight)

    def _spend(self, steps: int) -> None:
        """Takes steps that are ordered out of the budget."""
        if self.budget is not None:
            self.budget -= steps

    def _refund(self, steps: int) -> None:
        """Gives steps back to the budget that were ordered and not made."""
        if self.budget is not None:
            self.budget += steps
