"""GEO with overlap: while a window is trained, the deltas of the one before go out and the rows of the next come in.

The path of window k in a closure of several: (1) while window k - 1 is trained, the deltas of k - 2 are pushed, the
batches of k are read, and its rows are pulled, in this order; (2) when k - 1 is done, its deltas are added to the rows
that k has too, and to the dense variables; (3) k is trained on that. So a worker always sees its own updates, and with
one worker the result is that of one process. What others push it sees a window later than without overlap: a window is
up to two windows behind the servers. The first pull and the last push of a closure are waited for.

The turn that trains the last window of a closure reads one more, which is empty; a `WholeWindow` that draws random ids
draws for that one too.

Memory: the rows and slots of two windows, the batches of two, and the deltas of the one before.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.training.batches import NextBatch, read_next_unless
from tfps.training.exchange import Exchange, Values
from tfps.training.geo.drift import DRIFT_LANES
from tfps.training.geo.window import LoopTensor, Window
from tfps.training.order import Order
from tfps.training.push_ids import PushIds

WINDOWS = 4
"""Windows of a closure."""

State: TypeAlias = dict[str, Any]
"""What the loop carries.

    of the window that this turn trains
        "count": its batches, int64; the loop ends where it is 0.
        "tensors": its `loop_tensors`.
        "rows": of each capped table, as they were pulled.
        "own": of its rows those that the window before has as well, see `_common`.
        "start", "dense": what its tables and the dense variables begin with.
        "fetched": the dense variables as they were pulled.
    of the window before, whose deltas are pushed in this turn
        "before": "done" and "count", "push_tensors", "deltas" of tables and "moved" of dense variables, and the values
        these are compared with where they are capped, "base" and "dense_base".
    of all
        "done": steps before this turn; "logs" of the last one; "drift" of what was pushed, added up.
"""

CommonRows: TypeAlias = tuple[tf.Tensor, tf.Tensor]
"""Of ids that two windows have both: where they are in one, and where in the other."""


class Overlapped:
    """The windows of one closure.

    Args:
        window: one without batches; the others are made like it.
        logs: the logs before the first step.
        exchange: of the dense variables, which are pulled.
        push_ids: ids of what is pushed after so many steps of the closure.
    """

    def __init__(
        self, window: Window, logs: tf.Tensor, exchange: Exchange, push_ids: Callable[[tf.Tensor], PushIds]
    ) -> None:
        self._first, self._logs, self._exchange, self._push_ids = window, logs, exchange, push_ids

    def train(
        self, next_batch: NextBatch, first: tf.experimental.Optional, order: Order
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Trains windows until the order is done or the input ends.

        Args:
            next_batch: reads the next batch.
            first: the first one.
            order: of the chief.

        Returns:
            The steps there were, int64; the last one's logs; the drift of the windows, added up.
        """

        def turn(state: State) -> tuple[State]:
            # Steps after the window of this turn; its own push, in the next turn, has the id of that number.
            done = state["done"] + state["count"]
            window, following = self._first.with_tensors(state["tensors"]), self._first.without_batches()
            left = order.steps - done
            # Beside each other: the exchange of the windows before and after ...
            pushed, drift = self._push(window, state)
            count = following.read(
                next_batch, read_next_unless(left <= 0, next_batch, first), tf.minimum(order.window, left)
            )
            pulled, fetched = following.pull(), self._exchange.fetch()
            # ... and the steps of this one. Nothing below is needed above.
            deltas, logs = window.train(state["count"], state["start"])
            moved = self._exchange.deltas(state["dense"])
            dense = self._exchange.sums(fetched, moved)
            self._exchange.fill(dense)
            own = [_common(ids, before) for ids, before in zip(following.keys, window.keys, strict=True)]
            before = {
                "done": done,
                "count": state["count"],
                "push_tensors": window.push_tensors,
                "deltas": deltas,
                "base": self._base(window, state, pushed[0]),
                "moved": moved,
                "dense_base": self._exchange.sums(state["fetched"], pushed[1]),
            }
            return (
                {
                    **_state_of(following, count, pulled, own),
                    "done": done,
                    "start": _start(window, state["count"], pulled, deltas, own),
                    "dense": dense,
                    "fetched": fetched,
                    "before": before,
                    "logs": logs,
                    "drift": state["drift"] + drift,
                },
            )

        # One turn at a time: the push of one window and the pull of the one after the next go to the same rows.
        (last,) = tf.while_loop(
            lambda state: state["count"] > 0,
            turn,
            (self._initial_state(next_batch, first, order),),
            parallel_iterations=1,
        )
        _, drift = self._push(self._first.with_tensors(last["tensors"]), last)
        return last["done"], last["logs"], last["drift"] + drift

    def _initial_state(self, next_batch: NextBatch, first: tf.experimental.Optional, order: Order) -> State:
        """The first window, and none before it."""
        # The closure has pulled the dense variables before; the rows of the first window are waited for here.
        dense, window = self._exchange.pulled, self._first
        count = window.read(next_batch, first, tf.minimum(order.window, order.steps))
        pulled, zero = window.pull(), tf.constant(0, tf.int64)
        push_tensors, deltas = (_of_any_length(tensors) for tensors in window.empty_push)
        # No row in common with a window that was not there.
        no_ids = _of_any_length([ids[:0] for ids in window.keys])
        before = {
            "done": zero,
            "count": zero,
            "push_tensors": push_tensors,
            "deltas": deltas,
            "base": [deltas[i] for i in window.capped],
            "moved": {key: tf.zeros_like(value) for key, value in dense.items()},
            "dense_base": dense,
        }
        return {
            **_state_of(window, count, pulled, [(ids, ids) for ids in no_ids]),
            "done": zero,
            "start": _of_any_length(pulled),
            "dense": dense,
            "fetched": dense,
            "before": before,
            "logs": self._logs,
            "drift": tf.zeros([DRIFT_LANES]),
        }

    def _push(self, window: Window, state: State) -> tuple[tuple[list[tf.Tensor], Values], tf.Tensor]:
        """Pushes the window before; returns what was added to tables and dense variables, and the drift."""
        before = state["before"]
        # Before the first window there is none: its id, of 0 steps, is never new, so servers ignore the push.
        ids = self._push_ids(before["done"])
        pushed, drift = window.push(before["count"], before["push_tensors"], before["deltas"], before["base"], ids.rows)
        sent = self._exchange.send(before["moved"], before["dense_base"], ids.dense)
        return (pushed, sent), tf.where(before["done"] > 0, drift, 0.0)

    def _base(self, window: Window, state: State, pushed: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """For each capped table the rows that servers hold if nobody else pushes: as pulled, and the push before."""
        return [
            _add_to_common(rows, pushed[i], state["own"][window.key_of[i]])
            for i, rows in zip(window.capped, state["rows"], strict=True)
        ]


def _start(
    window: Window,
    count: tf.Tensor,
    pulled: Sequence[tf.Tensor],
    deltas: Sequence[tf.Tensor],
    own: Sequence[CommonRows],
) -> list[tf.Tensor]:
    """What the next window begins with: its rows as pulled, and what this window has moved of them."""
    factors = window.keep_factors(count)
    return [
        _add_to_common(rows, delta * window.scale(i), own[number], factors[i])
        for i, (number, rows, delta) in enumerate(zip(window.key_of, pulled, deltas, strict=True))
    ]


def _state_of(
    window: Window, count: tf.Tensor, pulled: Sequence[tf.Tensor], own: Sequence[CommonRows]
) -> dict[str, Any]:
    """The part of the state that is about a window which was read and pulled."""
    return {
        "count": count,
        "tensors": _of_any_length(window.loop_tensors),
        "rows": _of_any_length([pulled[i] for i in window.capped]),
        "own": own,
    }


def _common(ids: tf.Tensor, before: tf.Tensor) -> CommonRows:
    """Where in `ids`, and where in `before`, the ids are that both have; each has an id once.

    Example: ids [7, 3, 9] and before [3, 7] give [0, 1] and [1, 0].
    """
    # `unique` numbers values as they first come, so the ids of `before` get their own positions, and an id that both
    # have gets that of `before`.
    places = tf.unique(tf.concat([before, ids], 0)).idx[tf.size(before) :]
    here = tf.reshape(tf.where(places < tf.size(before)), [-1])
    return here, tf.cast(tf.gather(places, here), tf.int64)


def _add_to_common(rows: tf.Tensor, deltas: tf.Tensor, common: CommonRows, keep: tf.Tensor | None = None) -> tf.Tensor:
    """Rows of a window with the deltas of the window before added to those that both have.

    Args:
        rows: [m, dim].
        deltas: of the window before, [n, dim].
        common: where both have a row.
        keep: of moving averages, the part of a row that remains of what it was.
    """
    here, before = common
    # Rows that only one of the two windows has need nothing: the other did not move, or does not read, them.
    deltas = tf.gather(deltas, before)
    if keep is not None:
        deltas -= (1 - keep) * tf.gather(rows, here)
    return tf.tensor_scatter_nd_add(rows, here[:, tf.newaxis], deltas)


def _of_any_length(values: Sequence[LoopTensor]) -> list[LoopTensor]:
    """Tensors of which the graph forgets the length, as it differs in each turn of a loop; arrays as they are."""
    return [
        value
        if isinstance(value, tf.TensorArray) or not value.shape.rank
        else tf.compat.v1.placeholder_with_default(value, [None, *value.shape[1:]])
        for value in values
    ]
