"""Global steps of one epoch: which worker takes which batch when, and which contributions make an update together.

A contribution goes through: under way (a worker computes it) -> waiting (its message is with the servers) -> merged.
A shard of the input has at most `max_staleness + 1` contributions that are not merged, each in a place of its own, and
they are merged in the order in which they began. So a contribution misses at most `max_staleness` updates, and none
where that is 0. One that arrives after an update that did not wait for it is dropped, and its batch is trained again.

Example: three workers, drop_slowest=1. Batches 0, 1, 2 run on shards 0, 1, 2. Shards 0 and 1 arrive, and an update is
made of them. Shard 2 arrives: it began before that update, which it missed, so shard 2 makes batch 2 again, on the
variables as they are now.
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
    """When an update is made, and how.

    Args:
        drop_slowest: shards that an update does not wait for.
        max_staleness: updates that a contribution may miss.
        update: makes the update of the contributions in some places.
    """

    drop_slowest: int
    max_staleness: int
    update: Callable[[Sequence[int]], None]

    @property
    def slots(self) -> int:
        """Places that one shard needs."""
        return self.max_staleness + 1


@dataclasses.dataclass(frozen=True)
class _Contribution(InFlight):
    """A closure under way.

    Args:
        began: updates that were made before it began.
    """

    began: int = 0


@dataclasses.dataclass
class _ShardState:
    """Where one shard of the input stands.

    Attributes:
        begun: contributions that were begun; the next one's place follows from it.
        waiting: those that wait for an update, with their results.
        ended: whether it has no more batches.
        again: a contribution that was dropped, whose batch is to be trained again.
    """

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
            shard.ended = True  # even if a shard that is used up gives steps back to the budget
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
        """Contributions of a shard that were begun and are not merged: under way, lost, or waiting."""
        return self.progress.under_way[number] + len(self._to_repeat[number]) + len(self._shards[number].waiting)

    def _may_begin(self, shard: _ShardState) -> bool:
        return shard.again is not None or not (shard.ended or self.budget == 0)

    def _begin(self, number: int, shard: _ShardState) -> None:
        again, shard.again = shard.again, None
        batches = again.batches if again is not None else None
        if again is None:
            if self.epoch.source.is_fed and not (batches := list(itertools.islice(self.epoch, 1))):
                for one in self._shards:
                    one.ended = True
                return
            self._spend(1)
        # Each shard has `slots` places in a ring. The place of the contribution `slots` before is free: it was merged.
        place = number * self._policy.slots + shard.begun % self._policy.slots
        order = Order(1, number, shard.begun, place, int(again is not None))
        shard.begun += 1
        self._submit(_Contribution(order, batches, self._updates))

    def _repeat(self, shard: int) -> None:
        """Makes lost contributions again, in the same places."""
        # The new iterator begins after the batches that are merged or waiting, so it gives their batches as the next:
        # the worker that had them as its last batch is gone.
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
            # Not counted as trained: neither its metrics nor its step.
            shard.again = flight
        else:
            shard.waiting.append((flight, result))
            self.epoch.taken[flight.order.shard] += 1
        while self._update():
            pass

    def _update(self) -> bool:
        """Makes the next update if enough contributions wait for it; returns whether it did."""
        # Every shard that has, or may have, a contribution is expected.
        expected = [one for number, one in enumerate(self._shards) if self._unmerged(number) or self._may_begin(one)]
        ready = [shard for shard in expected if shard.waiting]
        if not ready or len(ready) < len(expected) - self._policy.drop_slowest:
            return False
        taken = [shard.waiting.popleft() for shard in ready]
        self._policy.update([contribution.order.place for contribution, _ in taken])
        # Counted here: a contribution that began before this has missed the update.
        self._updates += 1
        for _, result in taken:
            self.runner.count(result)
        self._ready += len(taken)
        return True
