"""What a worker does in a global step: the gradients of one batch, left with the servers that hold the variables."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.errors import UnsupportedError
from tfps.training.batches import where_there
from tfps.training.closure import Closure, Program
from tfps.training.exchange import Exchange
from tfps.training.hoisting import DirectLookups, Recording
from tfps.training.order import Order
from tfps.training.synchronous.layout import Layout
from tfps.training.synchronous.stage import Stage


class ContributionClosure(Closure):
    """Closures of one step whose gradients wait on the servers for the update of a global step.

    Args:
        program: of the step; its variables are pulled, and nothing is pushed.
        stage: where contributions wait.
        traced: is told the layout of the contributions when a step is traced.
    """

    contributes = True

    def __init__(self, program: Program, stage: Stage, traced: Callable[[Layout], None]) -> None:
        super().__init__(program)
        self._stage = stage
        self._tell = traced

    def over_iterator(self, next_batch: Callable[[], Any], order: Order) -> Any:
        """Graph of one contribution; none where the input has ended."""
        exchange, copies = self._begin(order.shard)
        batch = next_batch()
        recording = Recording(functools.partial(self._run, copies), batch.element_spec)
        logs = where_there(
            batch.has_value(),
            lambda: self._contribute(exchange, copies, recording.lookups(batch.get_value()), batch.get_value(), order),
            tf.zeros(recording.result.shape),
        )
        return self._end(exchange, copies, order, tf.cast(batch.has_value(), tf.int64), logs)

    def over_batches(self, batches: list[Any], order: Order) -> Any:
        """Graph of the contribution of one batch."""
        exchange, copies = self._begin(order.shard)
        recording = Recording(functools.partial(self._run, copies), batches[0])
        logs = self._contribute(exchange, copies, recording.lookups(batches[0]), batches[0], order)
        return self._end(exchange, copies, order, tf.constant(1, tf.int64), logs)

    def _contribute(
        self, exchange: Exchange, copies: dict[Hashable, Any], lookups: DirectLookups, batch: Any, order: Order
    ) -> Any:
        traced = step.Step(lookups, copies, contributes=True)
        logs = self._traced(traced, batch)
        given = traced.contributions
        if not given:
            raise UnsupportedError(
                "a synchronous step must give gradients to its optimizer. Received: a step that gave none."
            )
        has_gradient = {value.key for contribution in given for value in contribution.values}
        others = [v for v in self._program.variables if v.key not in has_gradient and not v.trainable]
        layout = Layout(given, traced.gradients, others)
        with tf.control_dependencies([logs]):
            moved = {variable.key: exchange.moved(variable) for variable in others}
        for server in layout.servers:
            message = layout.message(server, _examples(batch), moved)
            self._stage.put(server, tf.cast(order.place, tf.int32), message)
        self._tell(layout)
        return logs


def _examples(batch: Any) -> Any:
    """How many examples a batch has, a float32 scalar: the rows of its labels, which features may be without."""
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    features = [leaf for leaf in tf.nest.flatten(parts[:1]) if _has_rows(leaf)]
    labels = [leaf for leaf in tf.nest.flatten(parts[1:2]) if _has_rows(leaf)]
    plain = [leaf for leaf in features if isinstance(leaf, tf.Tensor)]
    first = next(iter([*labels, *plain, *features]), None)
    if first is None:
        return tf.ones([])  # numbers alone: one example
    if isinstance(first, tf.RaggedTensor):
        rows = first.nrows()
    else:
        rows = first.dense_shape[0] if isinstance(first, tf.SparseTensor) else tf.shape(first)[0]
    return tf.cast(rows, tf.float32)


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, tf.Tensor | tf.RaggedTensor | tf.SparseTensor) and leaf.shape.rank != 0
