"""The steps of a closure over an iterator: a loop with several steps a turn.

Each turn is a round trip to every server, whatever it holds: the loop runs on all devices of its steps, a turn begins
on a server when the worker has said that there is one, and ends on the worker when all of it has ended on the servers.
Within a turn nothing of that is waited for. A step asks for its rows as soon as its batch is read; the server answers
once it has applied the worker's push of the step before, and the worker never waits for a push.

What is left of an input after whole turns, and of a closure that is no multiple of one, is trained step by step.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.batches import next_unless
from tfps.training.hoisting import Recording
from tfps.training.order import Order
from tfps.training.prefetching import Ahead

MOST_STEPS = 4
"""Steps of a turn at most: a quarter of its round trips is little beside what steps themselves cross for."""

_MOST_OPERATIONS = 2_500
"""Operations of a turn at most: 1,000 take about a second and a half to trace and to start."""

State = dict[str, Any]
"""What the loop carries: steps that are done, the last one's logs, the next batches, the rows of the first of them."""

Run = Callable[..., Any]
"""A step: takes what answers its lookups, its batch and its `push_id`, and returns its logs."""


def steps_of_turn(operations: int, most: int) -> int:
    """Steps of a turn: fewer than `most` where each is large.

    Args:
        operations: of a step.
        most: steps of a turn, however small they are.
    """
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
        self, recording: Recording, run: Run, push_id: Callable[[Any], PushId | None], steps: int, prefetches: bool
    ) -> None:
        self._recording, self._run, self._push_id, self._steps = recording, run, push_id, steps
        self._prefetches = prefetches and bool(recording.tables)
        self._ahead: Ahead | None = None
        self._next_batch: Callable[[], Any]
        self._order: Order

    def begun(self, next_batch: Callable[[], Any], first: Any, order: Order) -> State:
        """The state before the first step.

        Args:
            next_batch: gives the next batch as a `tf.experimental.Optional`, empty at the end of the input.
            first: the first one.
            order: of the chief.
        """
        self._next_batch, self._order = next_batch, order
        self._ahead = Ahead(self._recording, first) if self._prefetches else None
        return {
            "done": tf.constant(0, tf.int64),
            "logs": tf.zeros(self._recording.result.shape),
            "batches": [first, *self._read(1, first, self._steps - 1)],
            "rows": self._ahead.rows if self._ahead else [],
        }

    def train(self, state: State, end: Any) -> State:
        """Makes steps until so many are done, or the input ends; returns the state after them."""
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
        done, batches = state["done"], state["batches"]
        batches = [*batches, *self._read(done + self._steps, batches[-1], steps)]
        logs, rows = self._over(batches[:steps], batches[steps], done, state["rows"])
        return ({"done": done + steps, "logs": logs, "batches": batches[steps:], "rows": rows},)

    def _read(self, done: Any, batch: Any, count: int) -> list[Any]:
        """So many batches after `batch`, which is that of step `done`; empty where there are no more."""
        found: list[Any] = []
        for number in range(count):
            last = done + number >= self._order.steps
            found.append(next_unless(last, self._next_batch, found[-1] if found else batch))
        return found

    def _over(self, batches: Sequence[Any], following: Any, done: Any, rows: Any) -> tuple[Any, Any]:
        """A step over each batch; returns the last one's logs, and the rows of the batch that follows."""
        logs: Any = None
        for number, (batch, after) in enumerate(itertools.pairwise([*batches, following])):
            # Asked for before the step is traced: its push waits for them, and they do not wait for its push.
            coming = self._ahead.ask(after) if self._ahead else []
            lookups = self._ahead.answer(rows) if self._ahead else self._recording.lookups(batch.get_value())
            logs = self._run(lookups, batch.get_value(), push_id=self._push_id(done + number + 1))
            rows = coming
        return logs, rows
