"""Asynchronous training, the mode of every optimizer that has no other."""

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

    Nobody waits for another worker, so a step may miss what others push while it runs, and the dense variables of a
    closure are as old as its beginning. State: two ledgers on every server.

    Args:
        strategy: whose workers and servers train. Its `prefetch_lookups` and `overlap_dense_exchange` count.
        steps: gives the steps of a closure at most.
    """

    applies_updates = True

    def __init__(self, strategy: ParameterServerStrategy, steps: Callable[[], int]) -> None:
        super().__init__(strategy, steps)
        self._ledgers = PushLedgers(strategy)

    def closure(self, program: Program, turn: int) -> Closure:
        """A loop of steps with their pushes."""
        # Read here and not when the mode is made: users may change these between two fits, before a graph is traced.
        strategy = self._strategy
        return AsynchronousClosure(
            program, turn, strategy.prefetch_lookups, self._ledgers, strategy.overlap_dense_exchange
        )

    def schedule(self, runner: Runner, epoch: Epoch) -> Schedule:
        """As every steady mode; with overlap a closure has several spans, each with an exchange of its own."""
        return self._schedule_of_parts(runner, epoch, SPANS if self._strategy.overlap_dense_exchange else 1)
