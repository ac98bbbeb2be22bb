"""Global steps of one epoch: which worker takes which batch when, and which contributions make an update together.

A contribution goes through: under way (a worker computes it) -> waiting (its message is with the servers) -> merged.
A shard of the input is a worker's: it has at most `max_staleness + 1` contributions that are not merged, each in a
place of its own, and is merged in the order in which it began. So a contribution misses at most `max_staleness`
updates, and where that is 0 none. One that lands after an update that did not wait for it is dropped, and its batch
goes again.
Threading: the training loop's thread; closures run on the pool's.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence

from tfps.inputs.worker_input import Epoch
from tfps.training.closure import Result
from tfps.training.order import Order
from tfps.training.runner import Runner
from tfps.training.schedule import InFlight, Schedule


@dataclasses.dataclass(frozen=True)
class UpdatePolicy:
    """When an update is made.

    Args:
        drop_slowest: shards that it does not wait for.
        max_staleness: updates that a contribution may miss.
        update: makes it of the contributions in the places that are given.
    """

    drop_slowest: int
    max_staleness: int
    update: Callable[[Sequence[int]], None]

    @property
    def slots(self) -> int:
        """Places that a shard needs."""
        return self.max_staleness + 1


@dataclasses.dataclass(frozen=True)
class _Contribution(InFlight):
    """A closure under way, and how many updates were made when it began."""

    began: int = 0


@dataclasses.dataclass
class _ShardState:
    """Where one worker's shard of the input stands."""

    begun: int = 0
    waiting: collections.deque[tuple[_Contribution, Result]] = dataclasses.field(default_factory=collections.deque)
    ended: bool = False
    again: _Contribution | None = None


class SyncSchedule(Schedule):
    """The global steps of one epoch; hands out a step for each batch that is part of an update."""

    def __init__(self, runner: Runner, epoch: Epoch, policy: UpdatePolicy) -> None:
        super().__init__(runner, epoch, most=1)
        self._policy = policy
        self._shards = [_ShardState() for _ in range(len(self.progress))]
        self._updates = 0

    def join(self) -> None:
        """Waits for what is under way and makes it part of an update; no other batch is begun."""
        for shard in self._shards:
            shard.ended = True  # whatever a shard that has ended gives back to the budget
        while self._calls or any(shard.again for shard in self._shards):
            self._launch()
            self._take_result()
        self._ready = 0

    def _launch(self) -> None:
        for turn in range(self._policy.slots):
            for number, shard in enumerate(self._shards):
                if self._unmerged(number) <= turn and self._may_begin(shard) and not self._to_repeat[number]:
                    self._begin(number, shard)

    def _unmerged(self, number: int) -> int:
        """Contributions of a shard that began and are no part of an update."""
        return self.progress.under_way[number] + len(self._to_repeat[number]) + len(self._shards[number].waiting)

    def _may_begin(self, shard: _ShardState) -> bool:
        return shard.again is not None or not (shard.ended or self.budget == 0)

    def _begin(self, number: int, shard: _ShardState) -> None:
        again, shard.again = shard.again, None
        batches = again.batches if again is not None else None
        if again is None:
            if self.epoch.source.fed and not (batches := list(itertools.islice(self.epoch, 1))):
                for one in self._shards:
                    one.ended = True
                return
            self._spend(1)
        place = number * self._policy.slots + shard.begun % self._policy.slots
        order = Order(1, number, shard.begun, place, int(again is not None))
        shard.begun += 1
        self._submit(_Contribution(order, batches, self._updates))

    def _repeat(self, shard: int) -> None:
        """Makes lost contributions again, from batches that are read anew."""
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
            self._refund(1)
        elif self._updates - flight.began > self._policy.max_staleness:
            shard.again = flight
        else:
            shard.waiting.append((flight, result))
            self.epoch.taken[flight.order.shard] += 1
        while self._update():
            pass

    def _update(self) -> bool:
        """Makes the next update if enough contributions wait for it; returns whether."""
        expected = [one for number, one in enumerate(self._shards) if self._unmerged(number) or self._may_begin(one)]
        ready = [shard for shard in expected if shard.waiting]
        if not ready or len(ready) < len(expected) - self._policy.drop_slowest:
            return False
        taken = [shard.waiting.popleft() for shard in ready]
        self._policy.update([contribution.order.place for contribution, _ in taken])
        self._updates += 1
        for _, result in taken:
            self.runner.count(result)
        self._ready += len(taken)
        return True
