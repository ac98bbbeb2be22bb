"""The schedule of one epoch: all workers run its steps, and the training loop gets them as they are done.

The loop (Keras's `fit`) asks for one step at a time; the workers run ahead of it, many steps in a closure. A step is
handed out once it is done, so callbacks see exactly the steps that were trained, though their log values may lag.

The states of a closure: ordered -> under way (it runs, or waits behind another) -> done or lost. The lost closures of a
shard are repeated in their order and with their numbers, once none of the shard is under way.
Threading: used by the training loop's thread; closures run on the pool's.
"""

import abc
import dataclasses
from collections.abc import Sequence

from tfps.inputs.epoch import Epoch
from tfps.runtime.losses import WorkerLostError
from tfps.training.budget import Budget
from tfps.training.closure import Result
from tfps.training.order import Order
from tfps.training.progress import Progress
from tfps.training.runner import Runner
from tfps.types import Nest


@dataclasses.dataclass(frozen=True)
class InFlight:
    """A closure under way.

    Args:
        order: the order of the closure.
        batches: the batches that the chief feeds; None if the closure reads the worker's iterator.
        worker: the worker that runs it; -1 before it is sent.
    """

    order: Order
    batches: Sequence[Nest] | None = None
    worker: int = dataclasses.field(default=-1, kw_only=True)


class Schedule(abc.ABC):
    """The steps of one epoch. Subclasses decide when a closure begins and how its result counts.

    Args:
        runner: runs the closures.
        epoch: the input of the epoch, which limits the number of steps.
        most: the most steps of a closure, for messages.

    Attributes:
        epoch: the input of the epoch.
        budget: the steps that may still begin.
        progress: counts of the closures of each shard.
    """

    def __init__(self, runner: Runner, epoch: Epoch, most: int) -> None:
        self.runner, self.epoch = runner, epoch
        # An endless input has several schedules, and another program may have run a part of the first.
        self._before, epoch.handed = epoch.handed, 0
        whole = epoch.source.steps_per_epoch
        self._steps = None if whole is None else whole - self._before
        self.budget = self._budget(self._steps)
        self.progress = Progress(len(runner.workers.pool.devices))
        self._ready = 0
        self._handed = 0
        # The steps of the orders that are under way.
        self._ordered_steps = 0
        self._calls = runner.calls(f"closures of up to {most} steps")
        # The lost closures of each shard, until all of them are known.
        self._to_repeat: list[list[InFlight]] = [[] for _ in range(len(self.progress))]

    def _budget(self, steps: int | None) -> Budget:
        """Creates the budget of the rest of the epoch: `steps`, or None for all that the input has."""
        in_turn = steps is not None and self.epoch.source.in_turn and not self.epoch.alone
        return Budget(steps, self.epoch.taken, in_turn)

    def take(self, count: int) -> int:
        """Waits until up to `count` more steps are done; returns their number, 0 at the end of the epoch."""
        while self._ready < count:
            self._launch()
            # No closure is under way and none could begin: the input or the budget has ended.
            if not self._calls:
                break
            self._take_result()
        # A closure may have more steps than the loop asks for; the next calls hand out the rest.
        taken = min(count, self._ready)
        self._ready -= taken
        self._handed += taken
        return taken

    @property
    def spent(self) -> bool:
        """Whether all steps of the budget were handed out. An endless input then continues in another epoch."""
        return self._steps is not None and self._handed >= self._steps

    @property
    def trained(self) -> int:
        """The number of steps of the training loop's epoch that are done, whether or not they were handed out."""
        return self._before + self._handed + self._ready

    def taken(self) -> list[int]:
        """Returns for each shard the number of batches that are part of the model, when none is under way."""
        return list(self.epoch.taken)

    @property
    def is_whole(self) -> bool:
        """Whether closures are now as long, and as many at a time, as they get."""
        return True

    def join(self) -> None:
        """Waits for the closures under way and begins no others."""
        self.budget.end()
        while self._calls:
            self._take_result()
        self._ready = 0

    def settle(self) -> None:
        """Waits for the closures under way; the epoch continues after that."""
        while self._calls:
            self._take_result()

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch early: drops closures that have not begun; running ones have `timeout_s` seconds to end."""
        self.budget.end()
        # Running closures may still push, so the next epoch waits for them.
        self._calls.abandon(timeout_s)

    @abc.abstractmethod
    def _launch(self) -> None:
        """Begins all closures that may begin now."""

    @abc.abstractmethod
    def _on_result(self, flight: InFlight, result: Result) -> None:
        """Acts on the result of a closure."""

    def _submit(self, flight: InFlight) -> None:
        shard = flight.order.shard
        self._ordered_steps += flight.order.steps
        self.progress.begin(shard)
        # Fed batches may go to any live worker, but an iterator stays on the worker where its shard was started.
        worker = self.runner.workers.host_of(shard) if self.epoch.source.is_fed else self.epoch.hosts[shard]
        flight = dataclasses.replace(flight, worker=worker)
        self._calls.submit(worker, flight, self.runner.call(self.epoch, flight.order, flight.batches), chain=shard)

    def _take_result(self) -> None:
        flight, value = self._calls.take()
        shard = flight.order.shard
        self._ordered_steps -= flight.order.steps
        self.progress.end(shard)
        if isinstance(value, WorkerLostError):
            self._to_repeat[shard].append(flight)
            # The closures behind a lost one are lost too, as `chain` keeps them from running before it. All lost
            # closures are known when the last one has come back.
            if not self.progress.under_way[shard]:
                self._repeat(shard)
        else:
            result = self.runner.closures.read(value)
            self._on_result(flight, dataclasses.replace(result, worker=flight.worker))

    def _repeat(self, shard: int) -> None:
        """Repeats the lost closures of a shard, once all of them are known."""
        lost, self._to_repeat[shard] = self._to_repeat[shard], []
        self._calls.mend(shard)
        if not self.epoch.source.is_fed:
            self.runner.closures.start_shard(self.epoch, shard)
        # In the order of their numbers, because a server that has seen a number ignores all lower ones of the shard.
        for flight in sorted(lost, key=lambda flight: flight.order.first):
            self._submit(flight)

    def _is_placed(self, shard: int) -> bool:
        """Returns a shard to its own worker if that is back; returns whether closures of the shard may begin now.

        It returns between two closures, when it is known which of its batches were trained.
        """
        if self.epoch.source.is_fed or self.runner.workers.host_of(shard) != shard:
            return True
        if self.epoch.hosts[shard] == shard:
            return True
        if self.progress.under_way[shard] or self._to_repeat[shard]:
            return False
        self.runner.closures.start_shard(self.epoch, shard)
        return True

    def _leeway(self, workers: int) -> int | None:
        """Returns the number of steps that may begin now without running too far ahead; None for any number.

        Args:
            workers: the number of workers that train now.
        """
        ahead = self.runner.lookahead(workers)
        if ahead is None:
            return None
        lost = sum(flight.order.steps for flights in self._to_repeat for flight in flights)
        return max(0, ahead - self._ready - self._ordered_steps - lost)
