"""Schedules in which a closure is complete when it ends: over the workers' inputs, and over fed batches."""

import itertools
from collections.abc import Sequence

from tfps.inputs.epoch import Epoch
from tfps.training.closure import Result
from tfps.training.order import Order
from tfps.training.pacing import Pace, Pacing
from tfps.training.runner import Runner
from tfps.training.schedule import InFlight, Schedule
from tfps.types import Nest

IN_FLIGHT = 2
"""Closures of each worker: one runs and the next waits, so that a worker is not idle for a round trip."""


def make_paced_schedule(runner: Runner, epoch: Epoch, pacing: Pacing, most: int) -> "PacedSchedule":
    """Creates the schedule for an input that the workers read or the chief feeds.

    Args:
        runner: runs the closures.
        epoch: the input of the epoch.
        pacing: decides how long closures are.
        most: the most steps of a closure, for messages.
    """
    return (FedSchedule if epoch.source.is_fed else ShippedSchedule)(runner, epoch, pacing, most)


class PacedSchedule(Schedule):
    """Hands out the steps of a closure when it ends; a `Pacing` decides how long closures are."""

    def __init__(self, runner: Runner, epoch: Epoch, pacing: Pacing, most: int) -> None:
        super().__init__(runner, epoch, most)
        self._pacing = pacing

    @property
    def is_whole(self) -> bool:
        """Whether the pacing has reached its full pace."""
        return self._pacing.is_whole(self._handed + self._ready)

    def _pace(self) -> Pace:
        return self._pacing.pace(self._handed + self._ready)

    def _row_uses(self) -> int:
        return self._pacing.row_uses(self._handed + self._ready)

    def _closure_size(self, pace: Pace, shards: int, share: int | None = None) -> int:
        """Returns the steps of the next closure: as many parts as possible, while some remain for each shard.

        Args:
            pace: the current pace.
            shards: the number of shards that train.
            share: the number of steps that this shard may begin; None if it has no share of its own.
        """
        left = self.budget.left
        if left is None:
            return pace.steps * self._pacing.parts
        # Without shares, a part for each of the others must remain.
        fair, most = (left // shards, left) if share is None else (share, share)
        parts = min(self._pacing.parts, max(1, fair // pace.steps))
        return min(pace.steps * parts, most)

    def _within_leeway(self, size: int, shards: int) -> int:
        """Returns the steps of the next closure, `size` or fewer, so that all shards share the leeway."""
        leeway = self._leeway(shards)
        return size if leeway is None else min(size, -(-leeway // shards))

    def _on_result(self, flight: InFlight, result: Result) -> None:
        # The pacing learns first, so that a better length already applies to the closure that begins next.
        self._pacing.on_closure(flight.order, result.steps, self._calls.last_s)
        self.runner.count(result)
        self._ready += result.steps
        self.epoch.taken[flight.order.shard] += result.steps


class ShippedSchedule(PacedSchedule):
    """Each worker runs over its own shard of the input. While the pace has one worker, it may run over all of it."""

    def __init__(self, runner: Runner, epoch: Epoch, pacing: Pacing, most: int) -> None:
        super().__init__(runner, epoch, pacing, most)
        self._live = set(epoch.to_start)
        # The batches of each shard that have begun, of this iterator; and those of all shards before this epoch.
        self._begun, self._trained_before = list(epoch.taken), sum(epoch.taken)

    def _launch(self) -> None:
        pace = self._pace()
        if self.epoch.alone and pace.workers > 1 and self._live:
            # The worker that was alone first ends its closures: only then it is known which batches are left.
            if self._calls:
                return
            self._divide()
        # In turns, so that each shard has one closure before any has two.
        for turn in range(IN_FLIGHT):
            # Most shards have their closures, so with many workers a look at them has to cost next to nothing.
            if all(self.progress.under_way[shard] > turn for shard in self._live):
                continue
            shards = [shard for shard in sorted(self._live) if self._trains(shard)][: pace.workers]
            for shard in shards:
                if self.progress.under_way[shard] > turn or not self._pacing.may_begin(shard, self.progress):
                    continue
                # Computed for each shard, because the previous one took steps from the budget.
                share = self.budget.share(shard)
                size = self._within_leeway(self._closure_size(pace, len(shards), share), len(shards))
                if size > 0 and not self._to_repeat[shard] and self._is_placed(shard):
                    self.budget.spend(size, shard)
                    self._submit(InFlight(self._order(shard, size, pace.steps)))

    def _divide(self) -> None:
        """Gives each worker its shard of the rest of the input."""
        self.epoch.divide()
        self.runner.closures.start_shards(self.epoch)
        self.budget = self._budget(self.budget.left)
        self._live, self._begun = set(self.epoch.to_start), list(self.epoch.taken)

    def _order(self, shard: int, size: int, window: int) -> Order:
        """Creates the next order of a shard. Its batches are every n-th of the input, and are numbered so."""
        shards = len(self.epoch.to_start)
        # The first batch of the epoch has number 0. After an epoch that was stopped, a shard may be behind it.
        number = max(0, self._begun[shard] * shards + shard - self._trained_before)
        self._begun[shard] += size
        # With several parts, the counts of a worker go on from values of others in the middle of a closure.
        stride = shards if self._pacing.parts == 1 else 0
        return self.runner.order(shard, size, window, number, stride, self._row_uses())

    def _trains(self, shard: int) -> bool:
        """Whether a shard has closures under way or may begin one. Only then does it count for the pace."""
        pending = self.progress.under_way[shard] or self._to_repeat[shard]
        return bool(pending) or self.budget.share(shard) != 0

    def _on_result(self, flight: InFlight, result: Result) -> None:
        super()._on_result(flight, result)
        if result.steps < flight.order.steps:
            # The shard is used up. Its remaining steps go back to the budget, for other shards if they have no shares.
            self._live.discard(flight.order.shard)
            self.budget.refund(flight.order.steps - result.steps)


class FedSchedule(PacedSchedule):
    """The chief reads batches and gives each to the worker with the fewest closures."""

    def __init__(self, runner: Runner, epoch: Epoch, pacing: Pacing, most: int) -> None:
        super().__init__(runner, epoch, pacing, most)
        self._begun = 0

    def _launch(self) -> None:
        pace = self._pace()
        while (shard := self._idlest(pace.workers)) is not None and (closures := self._next_closures(pace)):
            for batches in closures:
                stride = 1 if self._pacing.parts == 1 else 0
                order = self.runner.order(shard, len(batches), pace.steps, self._begun, stride, self._row_uses())
                self._begun += len(batches)
                self._submit(InFlight(order, batches))

    def _idlest(self, workers: int) -> int | None:
        """Returns the shard with the fewest closures among the first `workers` live ones; None if all have enough."""
        under_way = self.progress.under_way
        # Fed batches belong to no shard. The shard of a lost worker is skipped, and its batches go to other workers.
        live = [shard for shard in range(len(under_way)) if self.runner.workers.host_of(shard) == shard]
        free = [
            shard
            for shard in live[:workers]
            if under_way[shard] < IN_FLIGHT and self._pacing.may_begin(shard, self.progress)
        ]
        return min(free, key=lambda shard: under_way[shard], default=None)

    def _next_closures(self, pace: Pace) -> list[Sequence[Nest]]:
        """Reads the batches of the next closure; several short closures at the end of the input, none after it."""
        most = self._pacing.fed_steps(pace, self._closure_size(pace, pace.workers))
        if (limited := self._within_leeway(most, pace.workers)) < most:
            # One of a few lengths, as at the end of the input.
            most = self._pacing.fed_remainder(pace, limited) if limited else 0
        left = self.budget.left
        batches = list(itertools.islice(self.epoch, most if left is None else min(most, left)))
        self.budget.spend(len(batches))
        if len(batches) == most:
            return [batches] if batches else []
        # The input or the budget has ended.
        self.budget.end()
        # Example: for windows of 16 whose lengths are powers of 4, the last 11 batches make closures of 4, 4, 1, 1, 1.
        closures: list[Sequence[Nest]] = []
        while batches:
            length = self._pacing.fed_remainder(pace, len(batches))
            closures.append(batches[:length])
            batches = batches[length:]
        return closures
