"""Global steps of one epoch: which worker takes which batch when, and which contributions make an update together.

A contribution goes through: under way (a worker computes it) -> waiting (its message is with the servers) -> merged.
A share of the input is a worker's: it has at most `max_staleness + 1` contributions that are not merged, each in a
place of its own, and is merged in the order in which it began. So a contribution misses at most `max_staleness`
updates, and where that is 0 none. One that lands after an update that did not wait for it is dropped, and its batch
goes again.
Threading: the training loop's thread; closures run on the pool's.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from tfps.strategy.inputs import Epoch
from tfps.training.closure import Result
from tfps.training.order import Order
from tfps.training.stream import Runner, Stream


@dataclasses.dataclass(frozen=True)
class Rules:
    """When an update is made.

    Args:
        drop_slowest: shares that it does not wait for.
        max_staleness: updates that a contribution may miss.
        update: makes it of the contributions in the places that are given.
    """

    drop_slowest: int
    max_staleness: int
    update: Callable[[Sequence[int]], None]

    @property
    def slots(self) -> int:
        """Places that a share needs."""
        return self.max_staleness + 1


@dataclasses.dataclass(frozen=True)
class _Sent:
    """A contribution: its place on the servers, the updates made when it began, and the chief's batch if it has one."""

    share: int
    place: int
    began: int
    batch: Any


@dataclasses.dataclass
class _Share:
    """Where one worker's share of the input stands."""

    begun: int = 0
    under_way: int = 0
    waiting: collections.deque[tuple[_Sent, Result]] = dataclasses.field(default_factory=collections.deque)
    ended: bool = False
    again: _Sent | None = None

    @property
    def unmerged(self) -> int:
        """Contributions that began and are no part of an update."""
        return self.under_way + len(self.waiting)


class SyncStream(Stream):
    """The global steps of one epoch; hands out a step for each batch that is part of an update."""

    def __init__(self, runner: Runner, epoch: Epoch, budget: int | None, rules: Rules) -> None:
        super().__init__(runner, epoch, budget)
        self._rules = rules
        self._shares = [_Share() for _ in self._busy]
        self._updates = 0

    def join(self) -> None:
        """Waits for what is under way and makes it part of an update; no other batch is begun."""
        self.budget = 0
        while self._calls or any(share.again for share in self._shares):
            self._launch()
            self._collect()
        self._ready = 0

    def _launch(self) -> None:
        for turn in range(self._rules.slots):
            for number, share in enumerate(self._shares):
                if share.unmerged <= turn and self._may_begin(share):
                    self._begin(number, share)

    def _may_begin(self, share: _Share) -> bool:
        return share.again is not None or not (share.ended or self.budget == 0)

    def _begin(self, number: int, share: _Share) -> None:
        again, share.again = share.again, None
        batch = again.batch if again is not None else None
        if again is None:
            if self.epoch.source.fed and (batch := next(self.epoch, None)) is None:
                for one in self._shares:
                    one.ended = True
                return
            if self.budget is not None:
                self.budget -= 1
        place = number * self._rules.slots + share.begun % self._rules.slots
        order = Order(1, number, place, int(again is not None))
        share.begun += 1
        share.under_way += 1
        function = functools.partial(self.runner.over_iterator, order)
        if self.epoch.source.fed:
            function = functools.partial(self.runner.over_batches, order, [batch])
        self._calls.submit(number, _Sent(number, place, self._updates, batch), function)

    def _collect(self) -> None:
        sent, vector = self._calls.take()
        share, result = self._shares[sent.share], self.runner.read(vector)
        share.under_way -= 1
        if not result.steps:
            share.ended = True
            if self.budget is not None:
                self.budget += 1
        elif self._updates - sent.began > self._rules.max_staleness:
            share.again = sent
        else:
            share.waiting.append((sent, result))
        while self._update():
            pass

    def _update(self) -> bool:
        """Makes the next update if enough contributions wait for it; returns whether."""
        expected = [share for share in self._shares if share.unmerged or self._may_begin(share)]
        ready = [share for share in expected if share.waiting]
        if not ready or len(ready) < len(expected) - self._rules.drop_slowest:
            return False
        taken = [share.waiting.popleft() for share in ready]
        self._rules.update([sent.place for sent, _ in taken])
        self._updates += 1
        for _, result in taken:
            self.runner.done(result)
        self._ready += len(taken)
        return True

    def _landed(self, worker: int, asked: int, steps: int) -> None:
        """Nothing: a landed contribution is not yet a step."""
