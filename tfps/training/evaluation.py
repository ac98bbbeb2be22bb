"""Evaluation as a mode: closures pull and compute, and push nothing."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.training.batches import WorkerBatches
from tfps.training.closure import Closure, Program
from tfps.training.order import Order
from tfps.training.steady_mode import SteadyMode
from tfps.training.step_loop import StepLoop
from tfps.types import Nest


class EvaluationClosure(StepLoop):
    """A loop of steps that change nothing but the metric sums of their result."""

    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces the loop over the worker's iterator."""
        _, copies = self._pull(order)
        # No push, hence no id of one: a closure that is made again changes nothing twice. Metric sums are safe too, as
        # the chief adds up only results that it gets.
        turns, state = self._loop(source, order, copies, lambda done: None)
        state = turns.train(state, order.steps)
        return self._result(copies, state["done"], state["logs"])

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces a step for each fed batch."""
        _, copies = self._pull(order)
        logs = self._run_each(batches, copies, lambda done: None)
        return self._result(copies, tf.constant(len(batches), tf.int64), logs)


class Evaluation(SteadyMode):
    """`evaluate` and `test_on_batch`, whatever the mode of the optimizer. State: none."""

    applies_updates = False

    def closure(self, program: Program, turn: int) -> Closure:
        """A loop of steps without pushes."""
        return EvaluationClosure(program, turn, self._strategy.prefetch_lookups)
