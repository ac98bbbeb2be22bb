"""Asynchronous training: the mode of every optimizer that does not choose another one."""

from collections.abc import Callable

from tfps.inputs.epoch import Epoch
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.asynchronous.closure import AsynchronousClosure
from tfps.training.asynchronous.spans import SPANS
from tfps.training.closure import Closure, Program
from tfps.training.push_ids import PushLedgers
from tfps.training.runner import Runner
from tfps.training.schedule import Schedule
from tfps.training.steady_mode import SteadyMode


class Asynchronous(SteadyMode):
    """Every step pushes the gradients of its rows; dense variables cross once a closure.

    No worker waits for another. A step may therefore miss updates that others push while it runs, and the dense
    variables of a closure are as old as its start. State: two push ledgers on every server.

    Args:
        strategy: the strategy whose workers and servers train. `prefetch_lookups` and `overlap_dense_exchange` apply.
        steps: returns the most steps that a closure may have.
    """

    applies_updates = True

    def __init__(self, strategy: ParameterServerStrategy, steps: Callable[[], int]) -> None:
        super().__init__(strategy, steps)
        self._ledgers = PushLedgers(strategy)

    def closure(self, program: Program, turn: int) -> Closure:
        """Returns a closure that loops over steps and pushes after each."""
        # These settings are read here and not in the constructor: users may change them between two calls of `fit`,
        # before a graph is traced.
        strategy = self._strategy
        return AsynchronousClosure(
            program, turn, strategy.prefetch_lookups, self._ledgers, strategy.overlap_dense_exchange
        )

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """Returns the schedule of a steady mode. With overlap a closure has several spans."""
        # Without overlap a closure is one part, which pulls at its start and pushes at its end.
        return self._schedule_of_parts(runner, epoch, SPANS if self._strategy.overlap_dense_exchange else 1)
