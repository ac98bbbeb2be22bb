"""The steps of a closure over an iterator: a loop with several steps a turn.

A turn costs a round trip to every server, whatever its number of steps: TensorFlow runs the loop on all devices of its
steps, a server begins a turn when the worker has told it to, and the worker ends one when all servers have ended it.
Within a turn nothing waits for that. A step asks for its rows as soon as its batch is read; a server answers once it
has applied this worker's push of the step before, and the worker never waits for a push.

Steps that are left after whole turns, because the input or the order ends, are made one a turn in a second loop.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.batches import NextBatch, next_unless
from tfps.training.hoisting import Recording
from tfps.training.order import Order
from tfps.training.prefetching import PrefetchedRows

MOST_STEPS = 4
"""Steps of a turn at most: a quarter of its round trips is little beside what steps themselves cross for."""

_MOST_OPERATIONS = 2_500
"""Operations of a turn at most: 1,000 take about a second and a half to trace and to start."""

State: TypeAlias = dict[str, Any]
"""What the loop carries: "done", steps so far, int64; "logs" of the last; the next "batches"; the "rows" of the first
of these, where they are prefetched.
"""

Run: TypeAlias = Callable[..., tf.Tensor]
"""A step: takes what answers its lookups, its batch and its `push_id`, and returns its logs."""


def steps_of_turn(operations: int, most: int) -> int:
    """Steps of a turn: fewer than `most` where each is large.

    Args:
        operations: of a step.
        most: steps of a turn, however small they are.
    """
    # Example: a step of 600 operations has turns of 4, one of 1,170 turns of 2.
    return max(1, min(most, _MOST_OPERATIONS // max(1, operations)))


def fed_steps(operations: int) -> int:
    """Steps of a closure over batches that the chief feeds: as many as a turn has, but one until a step is traced.

    Args:
        operations: of a step; 0 where none is traced.
    """
    return steps_of_turn(operations, MOST_STEPS) if operations else 1


class Turns:
    """The loop of one closure.

    Args:
        recording: of the step.
        run: a step.
        push_id: of the push of rows after so many steps of the closure.
        steps: of a turn.
        prefetches: whether rows of the next batch are asked for while a step computes.
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
        # A model without early lookups has nothing to ask for ahead.
        self._prefetches = prefetches and bool(recording.tables)
        self._prefetched: PrefetchedRows | None = None
        self._next_batch: NextBatch
        self._order: Order

    def initial_state(self, next_batch: NextBatch, first: tf.experimental.Optional, order: Order) -> State:
        """The state before the first step.

        Args:
            next_batch: reads the next batch.
            first: the first one.
            order: of the chief.
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
        """Makes steps until `end` are done, or the input ends; returns the state after them."""
        # Example: turns of 4 and 10 steps: the first loop makes 2 turns of 4 steps, the second 2 of 1.
        for steps in sorted({self._steps, 1}, reverse=True):
            (state,) = tf.while_loop(
                lambda state, steps=steps: tf.logical_and(
                    state["done"] + steps <= end, state["batches"][steps - 1].has_value()
                ),
                functools.partial(self._turn, steps),
                (state,),
                parallel_iterations=1,
            )
        return state

    def _turn(self, steps: int, state: State) -> tuple[State]:
        # The state always has as many batches read as a turn has steps: these are trained, and as many are read.
        done, batches = state["done"], state["batches"]
        batches = [*batches, *self._read(done + self._steps, batches[-1], steps)]
        logs, rows = self._run_steps(batches[:steps], batches[steps], done, state["rows"])
        return ({"done": done + steps, "logs": logs, "batches": batches[steps:], "rows": rows},)

    def _read(
        self, done: tf.Tensor | int, batch: tf.experimental.Optional, count: int
    ) -> list[tf.experimental.Optional]:
        """Reads `count` batches after `batch`, which is that of step `done`; empty ones where there are no more."""
        found: list[tf.experimental.Optional] = []
        for number in range(count):
            # Nothing is read beyond the order: the next closure begins with the batch after its last.
            last = done + number >= self._order.steps
            found.append(next_unless(last, self._next_batch, found[-1] if found else batch))
        return found

    def _run_steps(
        self,
        batches: Sequence[tf.experimental.Optional],
        following: tf.experimental.Optional,
        done: tf.Tensor,
        rows: list[tf.Tensor],
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Runs a step over each batch; returns the last one's logs, and the rows of the batch that follows."""
        logs: tf.Tensor = None  # there is at least one batch
        for number, (batch, after) in enumerate(itertools.pairwise([*batches, following])):
            # Asked for before the step is traced: its push waits for them, and they do not wait for its push.
            coming = self._prefetched.request(after) if self._prefetched else []
            lookups = self._prefetched.lookups(rows) if self._prefetched else self._recording.lookups(batch.get_value())
            logs = self._run(lookups, batch.get_value(), push_id=self._push_id(done + number + 1))
            rows = coming
        return logs, rows
