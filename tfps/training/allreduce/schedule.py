"""The rounds of one epoch: in a round, one closure on each worker of a group, all with the same number of steps.

States of a round: under way (closures run, or wait behind those of the round before) -> done, once all closures are.
Two rounds of one group are under way at a time. All workers run them in the order in which they began, so no worker
waits in an all-reduce for one that waits for it in another. A round of another group begins when the one before is
done: its members would not know whether the values of that round are on the servers.

A round ends early where the input shard of a worker ends. The next rounds are of the other workers.
Threading: the training loop's thread; closures run on the pool's.
"""

import contextlib
import dataclasses
import itertools
import time
import weakref
from collections.abc import Sequence

from tfps.errors import TfpsError, UnsupportedError
from tfps.inputs.epoch import Epoch
from tfps.training.allreduce.collectives import Groups
from tfps.training.closure import Result
from tfps.training.order import Order
from tfps.training.runner import Runner
from tfps.training.schedule import InFlight, Schedule
from tfps.types import Nest

_IN_FLIGHT = 2
"""Rounds under way: while one runs the next waits, so that no worker is idle for a round trip to the chief."""

_EPOCHS: "weakref.WeakKeyDictionary[Epoch, int]" = weakref.WeakKeyDictionary()
_NUMBERS = itertools.count(1)


@dataclasses.dataclass(eq=False)
class _Round:
    """A round under way.

    Attributes:
        closures: the number of its closures that are under way.
        steps: the steps of those that have ended.
    """

    closures: int
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class _Member(InFlight):
    """A closure under way, with its round."""

    round: _Round = dataclasses.field(default_factory=lambda: _Round(1))


class AllReduceSchedule(Schedule):
    """Hands out the steps of a round when all its closures have ended.

    Args:
        runner: runs the closures.
        epoch: the input of the epoch.
        steps: the most steps of a closure.
        groups: the groups of the mode.
    """

    def __init__(self, runner: Runner, epoch: Epoch, steps: int, groups: Groups) -> None:
        super().__init__(runner, epoch, steps)
        self._steps_of_closure, self._groups = steps, groups
        self._live = set(range(len(self.progress)) if epoch.source.is_fed else epoch.to_start)
        # The batches of each shard that have begun: the shards that are behind come first.
        self._begun = list(epoch.taken)
        self._rounds: list[_Round] = []
        # The group of the rounds under way.
        self._members: list[int] = []
        self._failed = False
        # An endless input continues in another epoch of Keras, with the batches that workers have kept.
        self._number = _EPOCHS.setdefault(epoch, next(_NUMBERS))

    def abandon(self, timeout_s: float) -> None:
        """Ends the epoch early: rounds under way may end by themselves within `timeout_s` seconds; see `Schedule`."""
        self.budget.end()
        # A call that is dropped before it begins would leave the others of its round in an all-reduce.
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(TfpsError):
            while self._calls and not self._failed:
                self._calls.limit_wait(deadline - time.monotonic())
                self._take_result()
        super().abandon(timeout_s)
        self._groups.release()

    def _launch(self) -> None:
        while len(self._rounds) < _IN_FLIGHT and self._begin_round():
            pass

    def _begin_round(self) -> bool:
        """Begins one round, if one may begin; returns whether it did."""
        members = [shard for shard in sorted(self._live) if self.budget.has_steps_for(shard)]
        limits = [limit for limit in (self._leeway(len(members)), self.budget.left) if limit is not None]
        if limits and min(limits) < len(members):
            # A callback that holds the workers back must not change the updates, so a round waits for all its workers.
            if self._calls or self._ready:
                return False
            # Fewer steps may begin than there are workers, as before a callback that saves every few batches.
            members = sorted(sorted(members, key=self._begun.__getitem__)[: min(limits)])
        if not members or (self._rounds and members != self._members):
            return False
        if self.epoch.source.is_fed:
            return self._begin_fed(members)
        shares = [share for share in map(self.budget.share, members) if share is not None]
        size = min([self._steps_of_closure, *shares, *(limit // len(members) for limit in limits)])
        self._submit_round(members, size, [None] * len(members))
        return True

    def _begin_fed(self, members: Sequence[int]) -> bool:
        """Begins a round of one batch for each member, or for some of them at the end of the input."""
        batches = list(itertools.islice(self.epoch, len(members)))
        if len(batches) < len(members):
            self._live.clear()
        if batches:
            self._submit_round(members[: len(batches)], 1, [[batch] for batch in batches])
        return bool(batches)

    def _submit_round(self, members: Sequence[int], steps: int, batches: Sequence[Sequence[Nest] | None]) -> None:
        self._groups.hold()
        self._members = list(members)
        group, begun = self._groups.key(members), _Round(len(members))
        self._rounds.append(begun)
        for member, (shard, fed) in enumerate(zip(members, batches, strict=True)):
            # Fed batches belong to no shard.
            self.budget.spend(steps, None if fed else shard)
            self._begun[shard] += steps
            order = self.runner.order(shard, steps)
            order = dataclasses.replace(order, group=group, members=len(members), member=member, epoch=self._number)
            self._submit(_Member(order, fed, begun))

    def _leeway(self, workers: int) -> int | None:
        leeway = super()._leeway(workers)
        # The steps of closures that have ended are not ready before their round is done.
        return None if leeway is None else max(0, leeway - sum(one.steps for one in self._rounds))

    def _take_result(self) -> None:
        try:
            super()._take_result()
        except BaseException:
            # The others of the round wait in an all-reduce for the worker that has failed.
            self._cancel()
            raise
        if not self._calls:
            self._groups.release()

    def _cancel(self) -> None:
        self._failed = True
        self._groups.cancel()

    def _on_result(self, flight: InFlight, result: Result) -> None:
        assert isinstance(flight, _Member)
        order, shard = flight.order, flight.order.shard
        ended, differs = result.measured
        if differs:
            raise UnsupportedError(
                f"a step must give variable {self._groups.names[int(differs) - 1]!r} the same value on all workers "
                'with dense="allreduce". Received: different values, as from a learning rate that follows from the '
                'batch. Valid: updates that follow from gradients and variables alone, or dense="exchange".'
            )
        self.runner.count(result)
        self.epoch.taken[shard] += result.steps
        self._refund(order, result, shard, ended > 0)
        flight.round.closures -= 1
        flight.round.steps += result.steps
        if not flight.round.closures:
            self._rounds.remove(flight.round)
            self._ready += flight.round.steps

    def _refund(self, order: Order, result: Result, shard: int, ended: bool) -> None:
        """Returns the steps that a closure did not run because a shard of its group has ended."""
        remaining = int(order.steps) - result.steps
        self._begun[shard] -= remaining
        if ended:
            self._live.discard(shard)
            self.budget.refund(remaining)
        elif remaining:
            # This shard has more batches, so the steps go back to its share.
            self.budget.spend(-remaining, shard)
