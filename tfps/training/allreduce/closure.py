"""A closure of all-reduce training: a group of workers makes the same updates to equal copies, step by step."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfps import step
from tfps.embedding.push_dedup import PushId
from tfps.training.allreduce.collectives import Collectives, Groups
from tfps.training.allreduce.exchange import MirroredExchange
from tfps.training.allreduce.reduction import MeanReducer, StepMerges
from tfps.training.allreduce.turns import AgreedTurns, KeptBatches
from tfps.training.batches import WorkerBatches
from tfps.training.closure import Copies, Program
from tfps.training.device_batches import count_examples
from tfps.training.hoisting import Recording
from tfps.training.order import Order
from tfps.training.step_lookups import DirectLookups
from tfps.training.step_loop import PushIdOf, StepLoop
from tfps.training.turns import Run, Turns, steps_of_turn
from tfps.types import Nest, VariableKey


class AllReduceClosure(StepLoop):
    """Trains steps that reduce their dense gradients; rows are pushed by each worker alone.

    It measures two values: 1 if the input shard of this worker has ended, else 0; and the number of the first variable
    whose copies differ between the workers, from 1, else 0.

    Args:
        program: the steps that it runs.
        turn: the most steps in one turn of the loop over an iterator.
        prefetches: whether a step requests the rows of the next batch.
        groups: the groups of the mode.
    """

    measures = 2

    def __init__(self, program: Program, turn: int, prefetches: bool, groups: Groups) -> None:
        super().__init__(program, turn, prefetches)
        self._groups = groups
        self._collectives: Collectives
        self._merges = StepMerges(program.variables, program.workers)

    def over_iterator(self, source: WorkerBatches, order: Order) -> tf.Tensor:
        """Traces the loop over the worker's iterator; it ends where the input of any worker of the group ends."""
        exchange, copies = self._begin(order, self._groups.instances())
        run = functools.partial(self._run, copies)
        recording = self._record(run, source.element_spec)
        size = steps_of_turn(self.operations, self._turn)
        turns = self._make_turns(recording, run, _no_push_id, size)
        kept = KeptBatches(source, size, order.epoch)
        state = turns.train(turns.initial_state(kept.next, kept.next(), order), order.steps)
        kept.keep(state)
        ended = (state["done"] < order.steps) & ~state["batches"][0].has_value()
        measured = tf.stack([tf.cast(ended, tf.float32), self._end(exchange)])
        return self._result(copies, state["done"], state["logs"], measured)

    def over_batches(self, batches: Sequence[Nest], order: Order) -> tf.Tensor:
        """Traces one step for each fed batch; every worker of the group has as many."""
        # The graphs of two batch sizes may run in one group, so all of them share numbers.
        exchange, copies = self._begin(order, 0)
        logs = self._run_each(batches, copies, _no_push_id)
        measured = tf.stack([0.0, self._end(exchange)])
        return self._result(copies, tf.constant(len(batches), tf.int64), logs, measured)

    def _begin(self, order: Order, first: int) -> tuple[MirroredExchange, Copies]:
        """Pulls the dense variables; `first` is the number of the closure's first all-reduce."""
        self._collectives = Collectives(self._groups.number, order, first, self.program.workers == 1)
        exchange = MirroredExchange(self.program.variables, self._collectives)
        return exchange, self._pull_by(exchange, order)

    def _end(self, exchange: MirroredExchange) -> tf.Tensor:
        """Stores the dense variables; returns what `first_difference` returns."""
        self._groups.names = [variable.name for variable in exchange.variables]
        differs = exchange.first_difference()
        exchange.store()
        return differs

    def _make_turns(self, recording: Recording, run: Run, row_push_id: PushIdOf, steps: int) -> Turns:
        return AgreedTurns(self._collectives, recording, run, row_push_id, steps, self._prefetches)

    def _run(
        self,
        copies: Copies,
        lookups: DirectLookups,
        batch: Nest,
        stand_ins: Mapping[VariableKey, Any] | None = None,
        push_id: PushId | None = None,
    ) -> tf.Tensor:
        examples = tf.cast(count_examples(batch), tf.float32)
        before = self._merges.begin(copies)
        traced = step.Step(lookups, copies, stand_ins, push_id=push_id, assignments=self._merges)
        traced.reducer = MeanReducer(self._collectives, examples)
        logs = self._trace(traced, batch)
        self._merges.end(copies, before, self._collectives, examples)
        return logs


def _no_push_id(done: tf.Tensor | int) -> PushId | None:
    """Returns no id: a closure is never repeated, because a lost worker ends the training."""
    return None
