"""Closures that look rows up in every step: what training with a push in each step and evaluation have in common."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.batches import WorkerBatches, of_one_shape
from tfps.training.closure import Closure, Copies, Program
from tfps.training.order import Order
from tfps.training.turns import State, Turns, steps_of_turn
from tfps.types import Nest

PushIdOf: TypeAlias = Callable[[tf.Tensor | int], PushId | None]
"""Gives the id of the push that ends with the given number of steps of a closure; None where nothing is pushed."""


class StepLoop(Closure):
    """Builds the steps of such closures; subclasses push, or do not.

    Args:
        program: the steps.
        turn: steps in one turn of the loop over an iterator, at most.
        prefetches: whether a step asks for the rows of the next batch, which then miss the update of this step.
    """

    def __init__(self, program: Program, turn: int, prefetches: bool) -> None:
        super().__init__(program)
        self._turn, self._prefetches = turn, prefetches

    def _loop(self, source: WorkerBatches, order: Order, copies: Copies, row_push_id: PushIdOf) -> tuple[Turns, State]:
        """The loop over the batches of a worker's iterator, and its state before the first step."""
        first = source.next()
        run = functools.partial(self._run, copies)
        # Traced twice: once to learn which rows a step looks up, and then for real.
        recording = self._record(run, first.element_spec)
        size = steps_of_turn(self.operations, self._turn)
        turns = Turns(recording, run, row_push_id, size, self._prefetches)
        return turns, turns.initial_state(source.next, first, order)

    def _run_each(self, batches: Sequence[Nest], copies: Copies, row_push_id: PushIdOf) -> tf.Tensor:
        """One step after the other over fed batches; returns the logs of the last."""
        batches = of_one_shape(batches)
        run = functools.partial(self._run, copies)
        recording = self._record(run, batches[0])
        logs: tf.Tensor = None  # there is at least one batch
        for number, batch in enumerate(batches, 1):
            logs = run(recording.lookups(batch), batch, push_id=row_push_id(number))
        return logs
