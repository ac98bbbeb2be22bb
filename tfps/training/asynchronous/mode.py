"""Asynchronous training: the mode of every optimizer that does not choose another one."""

import logging
from collections.abc import Callable
from typing import Protocol

from tfps.inputs.epoch import Epoch
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.asynchronous.closure import AsynchronousClosure
from tfps.training.asynchronous.pacing import MOST_ALONE, YoungPacing, begins_alone
from tfps.training.asynchronous.spans import SPANS
from tfps.training.closure import Closure, Program
from tfps.training.pacing import CLOSURES_AN_EPOCH, Pace, Pacing, closure_steps
from tfps.training.push_ids import PushLedgers
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.steady_mode import SteadyMode

_LOG = logging.getLogger("tfps")


class AgingModel(Protocol):
    """The methods that asynchronous training needs of a model."""

    def trained_steps(self) -> int:
        """Returns the number of steps that it was trained for."""
        ...

    def weight_of_unseen(self) -> float:
        """Returns the weight of a step that other workers have not seen: 1, and more for sensitive models."""
        ...


class Asynchronous(SteadyMode):
    """Every step pushes the gradients of its rows; dense variables cross once a closure.

    No worker waits for another. A step may therefore miss updates that others push while it runs, and the dense
    variables of a closure are as old as its start. State: two push ledgers on every server.

    Args:
        strategy: the strategy whose workers and servers train. `prefetch_lookups` and `overlap_dense_exchange` apply.
        steps: returns the most steps that a closure may have.
        model: the model that they train.
    """

    applies_updates = True
    may_cache_rows = True

    def __init__(self, strategy: ParameterServerStrategy, steps: Callable[[], int], model: AgingModel) -> None:
        super().__init__(strategy, steps)
        self._model = model
        self._has_told = False
        self._ledgers = PushLedgers(strategy)

    def closure(self, program: Program, turn: int) -> Closure:
        """Returns a closure that loops over steps and pushes after each."""
        # These settings are read here and not in the constructor: users may change them between two calls of `fit`,
        # before a graph is traced.
        strategy = self._strategy
        return AsynchronousClosure(
            program, turn, strategy.prefetch_lookups, self._ledgers, strategy.overlap_dense_exchange
        )

    def first_turn_steps(self, batches: int | None) -> int:
        """Returns 1: the closures of a worker take no note of those of another, so their turns may differ."""
        return 1

    def begins_alone(self) -> bool:
        """Returns whether the model is too young for several workers."""
        workers = self._strategy.num_workers
        # With a single worker the whole input is its shard.
        return workers > 1 and begins_alone(
            self._model.trained_steps(), workers, self._model.weight_of_unseen(), self._parts
        )

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Creates a schedule with few workers and short closures while the model is young.

        A lost closure is repeated with the same ids, so servers ignore those of its pushes that they have applied.
        """
        return self._schedule_of_parts(runner, epoch, self._parts)

    @property
    def _parts(self) -> int:
        # Without overlap a closure is one part, which pulls at its start and pushes at its end.
        return SPANS if self._strategy.overlap_dense_exchange else 1

    def _pacing(self, pace: Pace, parts: int, steps_of_fed: Callable[[], int], epoch: Epoch) -> Pacing:
        # A single worker that keeps no rows misses no steps, so the count is not read: it is a request to a server.
        needs_count = pace.workers > 1 or self._strategy.cache_size is not None
        trained = self._model.trained_steps() if needs_count else 0
        batches = epoch.source.num_batches
        # While it is alone, no other worker misses its steps, but callbacks see them when a closure ends.
        alone = closure_steps(batches, CLOSURES_AN_EPOCH, MOST_ALONE) if epoch.alone else None
        pacing = YoungPacing(pace, parts, steps_of_fed, trained, self._model.weight_of_unseen(), alone)
        if not self._has_told and trained < pacing.all_train_from:
            self._has_told = True
            _tell(pace.workers, trained, pacing.all_train_from, batches)
        return pacing


def _tell(workers: int, trained: int, from_step: int, batches: int | None) -> None:
    """Logs from which step on all workers train."""
    if batches is not None and trained + batches < from_step:
        reach = f"an epoch of {batches:,d} batches is too short for {workers} workers, so it uses fewer"
    else:
        reach = f"all {workers} workers train from step {from_step:,d} on"
    _LOG.info(
        "asynchronous: a young model, of %d steps so far, is trained by few workers in short closures; %s "
        "(docs/convergence.md)",
        trained,
        reach,
    )
