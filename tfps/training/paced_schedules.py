"""Schedules in which every closure is done with when it ends: over the workers' inputs, and over fed batches."""

import itertools
from collections.abc import Sequence

from tfps.inputs.epoch import Epoch
from tfps.training.closure import Result
from tfps.training.pacing import Pace, Pacing
from tfps.training.runner import Runner
from tfps.training.schedule import InFlight, Schedule
from tfps.types import Nest

IN_FLIGHT = 2
"""Closures a worker has: one runs, the next waits for it, so that a worker is never idle for a round trip."""


def paced_schedule(runner: Runner, epoch: Epoch, pacing: Pacing, most: int) -> "PacedSchedule":
    """The schedule for an input that the workers read, or that the chief feeds.

    Args:
        runner: runs the closures.
        epoch: their input.
        pacing: how long they are.
        most: steps of a closure, for messages.
    """
    return (FedSchedule if epoch.source.is_fed else ShippedSchedule)(runner, epoch, pacing, most)


class PacedSchedule(Schedule):
    """Hands out the steps of closures as these end; a `Pacing` says how long they are."""

    def __init__(self, runner: Runner, epoch: Epoch, pacing: Pacing, most: int) -> None:
        super().__init__(runner, epoch, most)
        self._pacing = pacing

    def _pace(self) -> Pace:
        return self._pacing.pace(self._handed + self._ready)

    def _closure_size(self, pace: Pace, shards: int) -> int:
        """Steps of the next closure: of as many parts as it may have, but so that there are some for each shard."""
        if self.budget is None:
            return pace.steps * self._pacing.parts
        parts = min(self._pacing.parts, max(1, self.budget // (pace.steps * shards)))
        return min(pace.steps * parts, self.budget)

    def _on_result(self, flight: InFlight, result: Result) -> None:
        # Before the count: a pacing that finds a better length applies it to the closure that is begun next.
        self._pacing.on_closure(flight.order, result.steps, self._calls.last_s)
        self.runner.count(result)
        self._ready += result.steps
        self.epoch.taken[flight.order.shard] += result.steps


class ShippedSchedule(PacedSchedule):
    """Each worker runs over its own shard of the input."""

    def __init__(self, runner: Runner, epoch: Epoch, pacing: Pacing, most: int) -> None:
        super().__init__(runner, epoch, pacing, most)
        self._live = set(range(len(self.progress)))

    def _launch(self) -> None:
        pace = self._pace()
        # Turn by turn, so that each shard has one closure before any has two.
        for turn in range(IN_FLIGHT):
            shards = sorted(self._live)[: pace.workers]
            for shard in shards:
                # Asked anew for each shard: what the one before took is gone from the budget.
                asked = self._closure_size(pace, len(shards))
                may = self.progress.under_way[shard] <= turn and self._pacing.may_begin(shard, self.progress)
                if may and asked > 0 and not self._to_repeat[shard]:
                    self._spend(asked)
                    self._submit(InFlight(self.runner.order(shard, asked, pace.steps)))

    def _on_result(self, flight: InFlight, result: Result) -> None:
        super()._on_result(flight, result)
        if result.steps < flight.order.steps:
            # The shard is used up; others may have the steps that it was to make.
            self._live.discard(flight.order.shard)
            self._refund(flight.order.steps - result.steps)


class FedSchedule(PacedSchedule):
    """The chief reads batches and hands each to the worker with least to do."""

    def _launch(self) -> None:
        pace = self._pace()
        while (shard := self._idlest(pace.workers)) is not None and (closures := self._next_closures(pace)):
            for batches in closures:
                self._submit(InFlight(self.runner.order(shard, len(batches), pace.steps), batches))

    def _idlest(self, workers: int) -> int | None:
        """The shard with least under way, of the first workers that live; None where all have enough."""
        under_way = self.progress.under_way
        # Fed batches belong to no shard, so a shard whose worker is lost is left out, and its batches go to others.
        live = [shard for shard in range(len(under_way)) if self.runner.workers.host_of(shard) == shard]
        free = [
            shard
            for shard in live[:workers]
            if under_way[shard] < IN_FLIGHT and self._pacing.may_begin(shard, self.progress)
        ]
        return min(free, key=lambda shard: under_way[shard], default=None)

    def _next_closures(self, pace: Pace) -> list[Sequence[Nest]]:
        """The batches of the next closure; of several where too few are left for a whole one; none at the end."""
        most = self._pacing.fed_steps(pace, self._closure_size(pace, pace.workers))
        batches = list(itertools.islice(self.epoch, most if self.budget is None else min(most, self.budget)))
        self._spend(len(batches))
        if len(batches) == most:
            return [batches] if batches else []
        self.budget = 0  # the input has ended, or the budget has
        # Example: 11 batches are left of windows of 16; windows of few lengths make 4, 4, 1, 1, 1 of them.
        closures: list[Sequence[Nest]] = []
        while batches:
            length = self._pacing.fed_rest(pace, len(batches))
            closures.append(batches[:length])
            batches = batches[length:]
        return closures
