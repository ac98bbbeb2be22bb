"""The steps of a closure over an iterator: a loop with several steps in each turn.

A turn costs a round trip to every server, for any number of steps: TensorFlow runs the loop on all devices of its
steps, a server starts a turn when the worker tells it to, and the worker ends the turn when all servers have ended it.
Within a turn nothing waits for that. A step requests its rows as soon as its batch is read; a server answers once it
has applied this worker's push of the previous step, and the worker never waits for a push.

When the input or the order ends, the steps that do not fill a turn run in a second loop, one in each turn.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.batches import NextBatch, read_next_unless
from tfps.training.closure import add_logs
from tfps.training.hoisting import Recording
from tfps.training.order import Order
from tfps.training.prefetching import PrefetchedRows

MOST_STEPS = 4
"""The most steps in a turn: a quarter of its round trip is small beside the messages of a step itself."""

_MOST_OPERATIONS = 2_500
"""The most operations in a turn: 1,000 operations take about 1.5 s to trace and start."""

State: TypeAlias = dict[str, Any]
"""The state of the loop.

"done": the steps so far, int64. "logs": the sum of their logs. "batches": the batches that were read but not trained.
"rows": the rows of the first of these batches, if they are prefetched.
"""

Run: TypeAlias = Callable[..., tf.Tensor]
"""Traces a step: takes the object that answers its lookups, its batch and its `push_id`; returns its logs."""


def steps_of_turn(operations: int, most: int) -> int:
    """Returns the steps in a turn: fewer than `most` where steps are large.

    Args:
        operations: the number of operations in a step.
        most: the most steps in a turn, for steps of any size.
    """
    # Example: steps of 600 operations have turns of 4, steps of 1,170 operations turns of 2.
    return max(1, min(most, _MOST_OPERATIONS // max(1, operations)))


def fed_steps(operations: int) -> int:
    """Returns the steps of a closure over fed batches: as many as a turn has, but 1 until a step is traced.

    Args:
        operations: the number of operations in a step; 0 before one is traced.
    """
    return steps_of_turn(operations, MOST_STEPS) if operations else 1


class Turns:
    """The loop over the steps of one closure.

    Args:
        recording: the recording of the step.
        run: traces a step.
        push_id: returns the id of the push of rows after the given number of steps of the closure.
        steps: the number of steps in a turn.
        prefetches: whether the rows of the next batch are requested while a step computes.
    """

    def __init__(
        self,
        recording: Recording,
        run: Run,
        push_id: Callable[[tf.Tensor], PushId | None],
        steps: int,
        prefetches: bool,
    ) -> None:
        self._recording, self._run, self._push_id, self._steps = recording, run, push_id, steps
        # A model without early lookups has nothing to request ahead.
        self._prefetches = prefetches and bool(recording.tables)
        self._prefetched: PrefetchedRows | None = None
        self._next_batch: NextBatch
        self._order: Order

    def initial_state(self, next_batch: NextBatch, first: tf.experimental.Optional, order: Order) -> State:
        """Creates the state before the first step.

        Args:
            next_batch: reads the next batch.
            first: the first batch.
            order: the order of the chief.
        """
        self._next_batch, self._order = next_batch, order
        self._prefetched = PrefetchedRows(self._recording, first) if self._prefetches else None
        return {
            "done": tf.constant(0, tf.int64),
            "logs": tf.zeros(self._recording.result.shape),
            "batches": [first, *self._read(1, first, self._steps - 1)],
            "rows": self._prefetched.first_rows if self._prefetched else [],
        }

    def train(self, state: State, end: tf.Tensor) -> State:
        """Runs steps until `end` steps are done or the input ends; returns the state after them."""
        # Example: for turns of 4 steps and end = 10, the first loop has 2 turns of 4 steps and the second 2 turns of 1.
        for steps in sorted({self._steps, 1}, reverse=True):
            (state,) = tf.while_loop(
                lambda state, steps=steps: tf.logical_and(state["done"] + steps <= end, self._has(steps, state)),
                functools.partial(self._turn, steps),
                (state,),
                parallel_iterations=1,
            )
        return state

    def _has(self, steps: int, state: State) -> tf.Tensor:
        """Returns whether there are batches for a turn of so many steps."""
        return state["batches"][steps - 1].has_value()

    def _turn(self, steps: int, state: State) -> tuple[State]:
        # The state always holds as many batches as a turn has steps. A turn trains these and reads as many new ones.
        done, batches = state["done"], state["batches"]
        batches = [*batches, *self._read(done + self._steps, batches[-1], steps)]
        logs, rows = self._run_steps(batches[:steps], batches[steps], state)
        return ({"done": done + steps, "logs": logs, "batches": batches[steps:], "rows": rows},)

    def _read(
        self, done: tf.Tensor | int, batch: tf.experimental.Optional, count: int
    ) -> list[tf.experimental.Optional]:
        """Reads `count` batches after `batch`, the batch of step `done`; empty ones where there are no more."""
        batches: list[tf.experimental.Optional] = []
        for number in range(count):
            # Reading stops at the end of the order: the next closure starts with the batch after it.
            last = done + number >= self._order.steps
            batches.append(read_next_unless(last, self._next_batch, batches[-1] if batches else batch))
        return batches

    def _run_steps(
        self,
        batches: Sequence[tf.experimental.Optional],
        following: tf.experimental.Optional,
        state: State,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Runs a step over each batch; returns the sum of the logs so far, and the rows of the batch that follows."""
        done, logs, rows = state["done"], state["logs"], state["rows"]
        for number, (batch, after) in enumerate(itertools.pairwise([*batches, following])):
            # Requested before the step is traced: the step's push waits for this request, and not the other way round.
            next_rows = self._prefetched.request(after) if self._prefetched else []
            lookups = self._prefetched.lookups(rows) if self._prefetched else self._recording.lookups(batch.get_value())
            logs = add_logs(logs, self._run(lookups, batch.get_value(), push_id=self._push_id(done + number + 1)))
            rows = next_rows
        return logs, rows
