"""A closure of asynchronous training: each step pushes its row gradients, dense variables cross once a closure."""

from collections.abc import Sequence

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.asynchronous.spans import train_spans
from tfps.training.batches import WorkerBatches
from tfps.training.closure import Program
from tfps.training.order import Order
from tfps.training.push_ids import PushLedgers
from tfps.training.step_loop import PushIdOf, StepLoop
from tfps.types import Nest


class AsynchronousClosure(StepLoop):
    """Trains a loop of steps, then pushes the deltas of the dense variables.

    Args:
        program: the steps that it runs.
        turn: the most steps in one turn of the loop over an iterator.
        prefetches: whether a step requests the rows of the next batch; these rows miss the update of this step.
        ledgers: the ledgers that give each push its id.
        overlaps: whether a closure over an iterator exchanges dense variables several times, while it runs steps.
    """

    def __init__(self, program: Program, turn: int, prefetches: bool, ledgers: PushLedgers, overlaps: bool) -> None:
        super().__init__(program, turn, prefetches)
        self._ledgers, self._overlaps = ledgers, overlaps

    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces the loop over the worker's iterator."""
        exchange, copies = self._pull(order)
        turns, state = self._loop(source, order, copies, self._row_push_id(order))
        if self._overlaps:
            # Each span pulls and pushes for itself. The pull above serves the first span.
            state = train_spans(turns, state, exchange, lambda done: self._ledgers.ids(order, done).dense, order)
        else:
            state = turns.train(state, order.steps)
            exchange.push(self._ledgers.ids(order, state["done"]).dense)
        return self._result(copies, state["done"], state["logs"])

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces one step for each fed batch. These closures are too short for an exchange to overlap with steps."""
        exchange, copies = self._pull(order)
        logs = self._run_each(batches, copies, self._row_push_id(order))
        # The number is known at tracing time: the chief feeds whole batches, and there is a graph for each number.
        steps = tf.constant(len(batches), tf.int64)
        exchange.push(self._ledgers.ids(order, steps).dense)
        return self._result(copies, steps, logs)

    def _row_push_id(self, order: Order) -> PushIdOf:
        def row_push_id(done: tf.Tensor | int) -> PushId:
            # The closure ends with the push of dense variables, but each of its steps pushes rows.
            return self._ledgers.ids(order, done).rows

        return row_push_id
