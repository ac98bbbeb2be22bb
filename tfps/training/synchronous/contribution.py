"""A worker's part in a global step: it computes the gradients of one batch and leaves them on the servers."""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfps import step
from tfps.errors import UnsupportedError
from tfps.training.batches import WorkerBatches, run_if
from tfps.training.closure import Closure, Copies, Program
from tfps.training.device_batches import count_examples
from tfps.training.exchange import Exchange, Values
from tfps.training.merges import EXTREMES, Merge
from tfps.training.order import Order
from tfps.training.step_lookups import DirectLookups
from tfps.training.synchronous.afterwards import StepAssignments
from tfps.training.synchronous.layout import Layout
from tfps.training.synchronous.stage import Stage
from tfps.types import Nest, VariableKey


class ContributionClosure(Closure):
    """A closure of one step whose gradients wait on the servers for the update of a global step.

    Args:
        program: the step; its variables are pulled, and nothing is pushed back to them.
        stage: the stage where contributions wait.
        on_layout: called with the layout of the contributions once a step is traced.
        repeats: whether a batch is trained again if its contribution came too late.
    """

    contributes = True

    def __init__(self, program: Program, stage: Stage, on_layout: Callable[[Layout], None], repeats: bool) -> None:
        super().__init__(program)
        self._stage, self._on_layout, self._repeats = stage, on_layout, repeats

    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces one contribution, or none where the input has ended."""
        # A shard may have several contributions that are not merged, each in its own place: all from the same values.
        exchange, copies = self._pull(order, draws=order.place)
        batch = source.read_or_repeat(order.again > 0) if self._repeats else source.next()
        recording = self._record(functools.partial(self._run, copies), batch.element_spec)
        logs = run_if(
            batch.has_value(),
            lambda: self._contribute(exchange, copies, recording.lookups(batch.get_value()), batch.get_value(), order),
            tf.zeros(recording.result.shape),
        )
        return self._result(copies, tf.cast(batch.has_value(), tf.int64), logs)

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces the contribution of one batch."""
        exchange, copies = self._pull(order, draws=order.place)
        recording = self._record(functools.partial(self._run, copies), batches[0])
        logs = self._contribute(exchange, copies, recording.lookups(batches[0]), batches[0], order)
        return self._result(copies, tf.constant(1, tf.int64), logs)

    def _contribute(
        self, exchange: Exchange, copies: Copies, lookups: DirectLookups, batch: Nest, order: Order
    ) -> tf.Tensor:
        # The optimizer gives its gradients to this step and applies none, see `SyncOptimizer`.
        # Where devices share the batch, the first one makes the assignments that are noted.
        assigned_copies = exchange.copies if self._device_copies is None else self._device_copies.handles[0]
        assignments = StepAssignments(assigned_copies, self.program.variables, self.program.workers)
        traced = step.Step(lookups, copies, contributes=True, assignments=assignments)
        logs = self._trace(traced, batch)
        contributions = traced.contributions
        if not contributions:
            raise UnsupportedError(
                "a synchronous step must apply gradients with its optimizer. Received: a step that applied none."
            )
        has_gradient = {value.key for contribution in contributions for value in contribution.values}
        assigned, afterwards = assignments.divide(has_gradient)
        kept = {one.variable.key for one in afterwards}
        others = [
            variable
            for variable in self.program.variables
            if variable.key in assigned or not (variable.trainable or variable.key in has_gradient | kept)
        ]
        merges: dict[VariableKey, Merge] = {variable.key: assignments.merge(variable.key) for variable in others}
        layout = Layout(contributions, traced.gradients, others, afterwards, merges)
        # The copies have their new values once the step has run; its logs are its last result.
        with tf.control_dependencies([logs]):
            moved: Values = {
                variable.key: exchange.value_now(variable)
                if merges[variable.key] in EXTREMES
                else exchange.delta_since_pull(variable)
                for variable in others
            }
        for server in layout.servers:
            message = layout.message(server, tf.cast(count_examples(batch), tf.float32), moved)
            decode = functools.partial(layout.decode, server)
            self._stage.put(server, tf.cast(order.place, tf.int32), message, decode)
        # Reported last, once everything is traced: until then updates use the layout of an earlier trace.
        self._on_layout(layout)
        return logs
