"""Closures that look up rows in every step: the base of evaluation, and of training with a push in every step."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.batches import WorkerBatches, unify_shapes
from tfps.training.closure import Closure, Copies, Program, add_logs
from tfps.training.hoisting import Recording
from tfps.training.order import Order
from tfps.training.turns import Run, State, Turns, steps_of_turn
from tfps.types import Nest

PushIdOf: TypeAlias = Callable[[tf.Tensor | int], PushId | None]
"""Returns the id of the push after the given number of steps of a closure; None if nothing is pushed."""


class StepLoop(Closure):
    """Traces the steps of such closures; a subclass decides what they push.

    Args:
        program: the steps that closures run.
        turn: the most steps in one turn of the loop over an iterator.
        prefetches: whether a step requests the rows of the next batch; these rows miss the update of this step.
    """

    def __init__(self, program: Program, turn: int, prefetches: bool) -> None:
        super().__init__(program)
        self._turn, self._prefetches = turn, prefetches

    def _loop(self, source: WorkerBatches, order: Order, copies: Copies, row_push_id: PushIdOf) -> tuple[Turns, State]:
        """Creates the loop over the batches of a worker's iterator, and its state before the first step."""
        first = source.next()
        run = functools.partial(self._run, copies)
        # The step is traced twice: once to learn which rows it looks up, and then for real.
        recording = self._record(run, first.element_spec)
        size = steps_of_turn(self.operations, self._turn)
        turns = self._make_turns(recording, run, row_push_id, size)
        return turns, turns.initial_state(source.next, first, order)

    def _make_turns(self, recording: Recording, run: Run, row_push_id: PushIdOf, steps: int) -> Turns:
        """Creates the loop; the arguments are those of `Turns`."""
        return Turns(recording, run, row_push_id, steps, self._prefetches)

    def _run_each(self, batches: Sequence[Nest], copies: Copies, row_push_id: PushIdOf) -> tf.Tensor:
        """Traces one step after the other over fed batches; returns the sum of their logs."""
        # One recording serves all batches, so their static shapes must agree. The last batch may have fewer examples.
        batches = unify_shapes(batches)
        run = functools.partial(self._run, copies)
        recording = self._record(run, batches[0])
        logs = tf.zeros(recording.result.shape)
        # Traced once for each batch and not as a loop: a loop would cost a round trip to every server in each turn.
        for number, batch in enumerate(batches, 1):
            logs = add_logs(logs, run(recording.lookups(batch), batch, push_id=row_push_id(number)))
        return logs
