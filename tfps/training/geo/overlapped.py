"""GEO with overlap: while one window is trained, the previous deltas are pushed and the next rows are pulled.

The path of window k in a closure: (1) while window k - 1 is trained, the deltas of k - 2 are pushed, the batches of k
are read and its rows are pulled, in this order; (2) when k - 1 is done, its deltas are added to the rows that k also
has, and to the dense variables; (3) k is trained on the result. A worker therefore always sees its own updates, and
with one worker the result equals that of one process. It sees the pushes of others one window later than without
overlap: a window is up to two windows behind the servers. Only the first pull and the last push of a closure make the
worker wait.

The turn that trains the last window of a closure reads one more window, which is empty. A `WholeWindow` that draws
random ids draws for it too.

Memory: the rows and slots of two windows, the batches of two windows, and the deltas of the previous one.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.embedding.requested_rows import RequestedOfKind
from tfps.training.batches import NextBatch, read_next_unless
from tfps.training.closure import add_logs
from tfps.training.exchange import Exchange, Values
from tfps.training.geo.drift import DRIFT_LANES
from tfps.training.geo.window import LoopTensor, Window
from tfps.training.order import Order
from tfps.training.push_ids import PushIds

WINDOWS = 4
"""The number of windows in a closure."""

State: TypeAlias = dict[str, Any]
"""The state of the loop.

    The window that this turn trains:
        "count": the number of its batches, int64; the loop ends when it is 0.
        "tensors": its `loop_tensors`.
        "rows": the rows of each capped table, as they were pulled.
        "own": the positions of rows that the previous window has too, see `_find_common`.
        "start", "dense": the values that its tables and the dense variables start from.
        "fetched": the dense variables as they were pulled.
    The previous window, whose deltas are pushed in this turn:
        "before": a dictionary of "done" and "count", "push_tensors", "deltas" of tables, "moved" of dense variables,
        and "base" and "dense_base", with which capped values are compared.
    All windows:
        "done": the steps before this turn. "logs": the sum of their logs. "drift": the sum over pushed windows.
"""

CommonRows: TypeAlias = tuple[tf.Tensor, tf.Tensor]
"""The positions of the ids that two windows share: in the one, and in the other."""


class Overlapped:
    """The overlapping windows of one closure.

    Args:
        window: a window without batches; the others are made like it.
        logs: the logs before the first step.
        exchange: the exchange of the dense variables, which have been pulled.
        push_ids: returns the ids of the pushes after the given number of steps of the closure.
        with_requested: adds the rows that a window requests to the logs of steps.
    """

    def __init__(
        self,
        window: Window,
        logs: tf.Tensor,
        exchange: Exchange,
        push_ids: Callable[[tf.Tensor], PushIds],
        with_requested: Callable[[tf.Tensor, Sequence[RequestedOfKind]], tf.Tensor],
    ) -> None:
        self._first, self._logs, self._exchange, self._push_ids = window, logs, exchange, push_ids
        self._with_requested = with_requested

    def train(
        self, next_batch: NextBatch, first: tf.experimental.Optional, order: Order
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Trains windows until the order is done or the input ends.

        Args:
            next_batch: reads the next batch.
            first: the first batch.
            order: the order of the chief.

        Returns:
            The number of steps, int64; the sum of their logs; the sum of the drift of the windows.
        """

        def turn(state: State) -> tuple[State]:
            # The steps after this turn's window. The window is pushed in the next turn, with the id of this number.
            done = state["done"] + state["count"]
            window, following = self._first.with_tensors(state["tensors"]), self._first.without_batches()
            remaining = order.steps - done
            # These run beside each other: the exchange of the previous and the next window ...
            pushed, drift = self._push(window, state)
            count = following.read(
                next_batch, read_next_unless(remaining <= 0, next_batch, first), tf.minimum(order.window, remaining)
            )
            pulled, fetched = following.pull(), self._exchange.fetch()
            # ... and the steps of this window. The exchange above needs none of the results below.
            deltas, logs = window.train(state["count"], state["start"])
            moved = self._exchange.deltas(state["dense"])
            dense = self._exchange.sums(fetched, moved)
            self._exchange.fill(dense)
            own = [_find_common(ids, before) for ids, before in zip(following.keys, window.keys, strict=True)]
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
                    **_window_state(following, count, pulled, own),
                    "done": done,
                    "start": _start_rows(window, state["count"], pulled, deltas, own),
                    "dense": dense,
                    "fetched": fetched,
                    "before": before,
                    "logs": self._with_requested(add_logs(state["logs"], logs), following.requested_rows),
                    "drift": state["drift"] + drift,
                },
            )

        # One turn at a time: the push of a window and the pull of the window after the next go to the same rows.
        (last,) = tf.while_loop(
            lambda state: state["count"] > 0,
            turn,
            (self._initial_state(next_batch, first, order),),
            parallel_iterations=1,
        )
        _, drift = self._push(self._first.with_tensors(last["tensors"]), last)
        # The turns have counted the windows that follow another one.
        logs = self._with_requested(last["logs"], self._first.requested_rows)
        return last["done"], logs, last["drift"] + drift

    def _initial_state(self, next_batch: NextBatch, first: tf.experimental.Optional, order: Order) -> State:
        """Creates the state with the first window, and none before it."""
        # The closure has already pulled the dense variables. The rows of the first window are waited for here.
        dense, window = self._exchange.pulled, self._first
        count = window.read(next_batch, first, tf.minimum(order.window, order.steps))
        pulled, zero = window.pull(), tf.constant(0, tf.int64)
        push_tensors, deltas = (_forget_lengths(tensors) for tensors in window.empty_push)
        # The first window has no previous one, so it shares no row with it.
        no_ids = _forget_lengths([ids[:0] for ids in window.keys])
        before = {
            "done": zero,
            "count": zero,
            "push_tensors": push_tensors,
            "deltas": deltas,
            "base": [deltas[i] for i in window.capped],
            "moved": self._exchange.no_deltas(),
            "dense_base": dense,
        }
        return {
            **_window_state(window, count, pulled, [(ids, ids) for ids in no_ids]),
            "done": zero,
            "start": _forget_lengths(pulled),
            "dense": dense,
            "fetched": dense,
            "before": before,
            "logs": self._logs,
            "drift": tf.zeros([DRIFT_LANES]),
        }

    def _push(self, window: Window, state: State) -> tuple[tuple[list[tf.Tensor], Values], tf.Tensor]:
        """Pushes the previous window; returns the values added to tables and dense variables, and the drift."""
        before = state["before"]
        # The first window has no previous one: the push id, of 0 steps, is never new, so servers ignore the push.
        ids = self._push_ids(before["done"])
        pushed, drift = window.push(before["count"], before["push_tensors"], before["deltas"], before["base"], ids.rows)
        sent = self._exchange.send(before["moved"], before["dense_base"], ids.dense)
        return (pushed, sent), tf.where(before["done"] > 0, drift, 0.0)

    def _base(self, window: Window, state: State, pushed: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the rows of each capped table as if nobody else had pushed: as pulled, plus the previous push."""
        return [
            _add_to_common(rows, pushed[i], state["own"][window.key_of[i]])
            for i, rows in zip(window.capped, state["rows"], strict=True)
        ]


def _start_rows(
    window: Window,
    count: tf.Tensor,
    pulled: Sequence[tf.Tensor],
    deltas: Sequence[tf.Tensor],
    own: Sequence[CommonRows],
) -> list[tf.Tensor]:
    """Returns the rows that the next window starts from: its rows as pulled, plus the deltas of this window."""
    factors = window.keep_factors(count)
    return [
        _add_to_common(rows, delta * window.scale(i), own[number], factors[i])
        for i, (number, rows, delta) in enumerate(zip(window.key_of, pulled, deltas, strict=True))
    ]


def _window_state(
    window: Window, count: tf.Tensor, pulled: Sequence[tf.Tensor], own: Sequence[CommonRows]
) -> dict[str, Any]:
    """Returns the part of the state that describes a window which was read and pulled."""
    return {
        "count": count,
        "tensors": _forget_lengths(window.loop_tensors),
        "rows": _forget_lengths([pulled[i] for i in window.capped]),
        "own": own,
    }


def _find_common(ids: tf.Tensor, before: tf.Tensor) -> CommonRows:
    """Finds the ids that are in both vectors; returns their positions in `ids` and in `before`.

    Each vector has an id once. Example: ids [7, 3, 9] and before [3, 7] give [0, 1] and [1, 0].
    """
    # `unique` numbers values in order of appearance. Ids of `before` come first and get their own positions, so an id
    # that is in both vectors gets its position in `before`.
    places = tf.unique(tf.concat([before, ids], 0)).idx[tf.size(before) :]
    here = tf.reshape(tf.where(places < tf.size(before)), [-1])
    return here, tf.cast(tf.gather(places, here), tf.int64)


def _add_to_common(rows: tf.Tensor, deltas: tf.Tensor, common: CommonRows, keep: tf.Tensor | None = None) -> tf.Tensor:
    """Adds the deltas of the previous window to the rows that both windows have.

    Args:
        rows: the rows of a window, [m, dim].
        deltas: the deltas of the previous window, [n, dim].
        common: the positions of the common rows in both windows.
        keep: for moving averages, the part of a row that remains of its earlier value.
    """
    here, before = common
    # A row of only one window needs no change: the other window did not move it or does not read it.
    deltas = tf.gather(deltas, before)
    if keep is not None:
        deltas -= (1 - keep) * tf.gather(rows, here)
    return tf.tensor_scatter_nd_add(rows, here[:, tf.newaxis], deltas)


def _forget_lengths(values: Sequence[LoopTensor]) -> list[LoopTensor]:
    """Hides the lengths of tensors, which differ between turns of a loop, from the graph; leaves arrays as they are."""
    return [
        value
        if isinstance(value, tf.TensorArray) or not value.shape.rank
        else tf.compat.v1.placeholder_with_default(value, [None, *value.shape[1:]])
        for value in values
    ]
