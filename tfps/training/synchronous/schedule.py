"""The global steps of one epoch: which worker trains which batch when, and which contributions form an update.

The states of a contribution: under way (a worker computes it) -> waiting (its message is on the servers) -> merged. A
shard of the input has at most `max_staleness + 1` contributions that are not merged, each in its own place, and they
are merged in the order in which they began. So a contribution misses at most `max_staleness` updates. One that arrives
after an update that did not wait for it is dropped, and its batch is trained again.

Example: three workers, drop_slowest=1. Batches 0, 1, 2 run on shards 0, 1, 2. Shards 0 and 1 arrive and form an update.
Then shard 2 arrives. It began before that update and missed it, so shard 2 trains batch 2 again, on the current
variables.
Threading: the training loop's thread; closures run on the pool's.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence

from tfps.inputs.epoch import Epoch
from tfps.training.closure import Result
from tfps.training.order import Order
from tfps.training.runner import Runner
from tfps.training.schedule import InFlight, Schedule


@dataclasses.dataclass(frozen=True)
class UpdatePolicy:
    """Decides when an update runs, and how.

    Args:
        drop_slowest: the number of shards that an update does not wait for.
        max_staleness: the number of updates that a contribution may miss.
        update: runs the update from the contributions in the given places.
    """

    drop_slowest: int
    max_staleness: int
    update: Callable[[Sequence[int]], None]

    @property
    def slots(self) -> int:
        """The number of places that one shard needs."""
        return self.max_staleness + 1


@dataclasses.dataclass(frozen=True)
class _Contribution(InFlight):
    """A contribution under way.

    Args:
        began: the number of updates before it began.
    """

    began: int = 0


@dataclasses.dataclass
class _ShardState:
    """The state of one shard of the input.

    Attributes:
        begun: the number of contributions that have begun; the place of the next one depends on it.
        waiting: the contributions that wait for an update, with their results.
        ended: whether the shard has no more batches.
        again: a dropped contribution, whose batch must be trained again.
    """

    begun: int = 0
    waiting: collections.deque[tuple[_Contribution, Result]] = dataclasses.field(default_factory=collections.deque)
    ended: bool = False
    again: _Contribution | None = None


class SyncSchedule(Schedule):
    """The global steps of one epoch; hands out one step for each batch that is part of an update."""

    def __init__(self, runner: Runner, epoch: Epoch, policy: UpdatePolicy) -> None:
        super().__init__(runner, epoch, most=1)
        self._policy = policy
        self._shards = [_ShardState() for _ in range(len(self.progress))]
        self._updates = 0

    def join(self) -> None:
        """Waits for the contributions under way and merges them; begins no other batch."""
        for shard in self._shards:
            # Without this, a shard that is used up could return steps to the budget and another would begin.
            shard.ended = True
        while self._calls or any(shard.again for shard in self._shards):
            self._launch()
            self._take_result()
        self._ready = 0

    def taken(self) -> list[int]:
        """See `Schedule`. Batches whose contributions wait for others are not part of the model yet."""
        return [taken - len(shard.waiting) for taken, shard in zip(super().taken(), self._shards, strict=True)]

    def _launch(self) -> None:
        # In turns, so that each shard has one contribution before any has two.
        for turn in range(self._policy.slots):
            for number, shard in enumerate(self._shards):
                if self._unmerged(number) <= turn and self._may_begin(number, shard) and self._is_placed(number):
                    self._begin(number, shard)

    def _is_placed(self, shard: int) -> bool:
        """See `Schedule`. A batch that has to be trained again is kept on the worker that has read it."""
        if self._to_repeat[shard]:
            return False
        return self._shards[shard].again is not None or super()._is_placed(shard)

    def _unmerged(self, number: int) -> int:
        """Counts the contributions of a shard that have begun and are not merged: under way, lost, or waiting."""
        return self.progress.under_way[number] + len(self._to_repeat[number]) + len(self._shards[number].waiting)

    def _may_begin(self, number: int, shard: _ShardState) -> bool:
        return shard.again is not None or not shard.ended and self.budget.has_steps_for(number)

    def _begin(self, number: int, shard: _ShardState) -> None:
        again, shard.again = shard.again, None
        batches = again.batches if again is not None else None
        if again is None:
            if self.epoch.source.is_fed and not (batches := list(itertools.islice(self.epoch, 1))):
                for one in self._shards:
                    one.ended = True
                return
            self.budget.spend(1, number)
        # The places of a shard form a ring. The contribution `slots` before was merged, so its place is free.
        place = number * self._policy.slots + shard.begun % self._policy.slots
        order = Order(1, number, shard.begun, place, int(again is not None))
        shard.begun += 1
        self._submit(_Contribution(order, batches, self._updates))

    def _repeat(self, shard: int) -> None:
        """Repeats lost contributions, in the same places."""
        # The new iterator starts after the batches that are merged or waiting, so the lost ones come next and `again`
        # must be 0: the worker that had kept them as its last batch is gone.
        lost = self._to_repeat[shard]
        self._to_repeat[shard] = [
            dataclasses.replace(one, order=dataclasses.replace(one.order, again=0)) for one in lost
        ]
        super()._repeat(shard)

    def _on_result(self, flight: InFlight, result: Result) -> None:
        assert isinstance(flight, _Contribution)
        shard = self._shards[flight.order.shard]
        if not result.steps:
            shard.ended = True
            self.budget.refund(1)
        elif self._updates - flight.began > self._policy.max_staleness:
            # The batch does not count as trained: neither its metrics nor its step.
            shard.again = flight
        else:
            shard.waiting.append((flight, result))
            self.epoch.taken[flight.order.shard] += 1
        while self._update():
            pass

    def _update(self) -> bool:
        """Runs the next update if enough contributions wait for it; returns whether it did."""
        # Every shard that has a contribution or may begin one is expected.
        expected = [
            shard
            for number, shard in enumerate(self._shards)
            if self._unmerged(number) or self._may_begin(number, shard)
        ]
        ready = [shard for shard in expected if shard.waiting]
        if not ready or len(ready) < len(expected) - self._policy.drop_slowest:
            return False
        taken = [shard.waiting.popleft() for shard in ready]
        self._policy.update([contribution.order.place for contribution, _ in taken])
        # Counted from here on: a contribution that began before has missed this update.
        self._updates += 1
        for _, result in taken:
            self.runner.count(result)
        self._ready += len(taken)
        return True
