"""Evaluation as a mode: closures pull and compute, and push nothing but what the steps themselves assign."""

import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfps.embedding.whole import WholeCopies
from tfps.strategy.strategy import ParameterServerStrategy
from tfps.training.batches import WorkerBatches
from tfps.training.closure import Closure, Program
from tfps.training.exchange import Exchange
from tfps.training.order import Order
from tfps.training.steady_mode import SteadyMode
from tfps.training.step_loop import StepLoop
from tfps.types import Nest

_NUMBERS = itertools.count()


class EvaluationClosure(StepLoop):
    """A loop of steps that apply no updates. Some assign variables all the same, as a random generator in use does.

    Args:
        program: the steps that it runs.
        turn: the most steps in one turn of the loop over an iterator.
        prefetches: whether a step requests the rows of the next batch.
        copies: the copies of tables that steps read whole.
    """

    def __init__(self, program: Program, turn: int, prefetches: bool, copies: WholeCopies) -> None:
        super().__init__(program, turn, prefetches)
        self._read_whole = copies.read

    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces the loop over the worker's iterator."""
        exchange, copies = self._pull(order)
        # There are no push ids. A closure may run twice without harm: the chief counts metric sums only from results
        # that it receives.
        turns, state = self._loop(source, order, copies, lambda done: None)
        state = turns.train(state, order.steps)
        self._push_written(exchange)
        return self._result(copies, state["done"], state["logs"])

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces one step for each fed batch."""
        exchange, copies = self._pull(order)
        logs = self._run_each(batches, copies, lambda done: None)
        self._push_written(exchange)
        return self._result(copies, tf.constant(len(batches), tf.int64), logs)

    def _push_written(self, exchange: Exchange) -> None:
        """Pushes the deltas of the variables that the steps assign: for most models there are none."""
        assert self._recording is not None
        if written := self._recording.written(exchange.copies):
            exchange.part(written).push()


class Evaluation(SteadyMode):
    """The mode of `evaluate` and `test_on_batch`, for every optimizer.

    State: the copies of tables that steps read whole, from the first closure of a call to its end.

    Args:
        strategy: the strategy whose workers run the steps.
        chosen_steps: returns the steps of a closure.
    """

    applies_updates = False
    trains = False

    def __init__(self, strategy: ParameterServerStrategy, chosen_steps: Callable[[], int]) -> None:
        super().__init__(strategy, chosen_steps)
        self._whole = WholeCopies(f"evaluation_{next(_NUMBERS)}", "evaluate")

    def closure(self, program: Program, turn: int) -> Closure:
        """Returns a closure that loops over steps and applies no updates."""
        return EvaluationClosure(program, turn, self._strategy.prefetch_lookups, self._whole)

    def first_turn_steps(self, batches: int | None) -> int:
        """Returns 1: the closures of a worker take no note of those of another, so their turns may differ."""
        return 1
