"""GEO with overlap: while a window is trained, the deltas of the one before go out and the rows of the next come in.

The path of window k in a closure of several: (1) while window k - 1 is trained, the deltas of k - 2 are pushed, the
batches of k are read, and its rows are pulled, in this order; (2) when k - 1 is done, what it has moved is added to
those of its rows that k has as well, and to the dense variables; (3) k is trained on that. So a worker misses nothing
of its own, and with one worker the result is that of one process; what others push it sees a window later than without
overlap, so that a window is up to two windows behind the servers. The first pull and the last push of a closure wait.

A turn that trains the last window of a closure looks for one more as well, and finds it empty; a `WholeWindow` that
draws random ids draws for that one too.

Memory: the rows and slots of two windows, the batches of two, and the deltas of the one before.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import tensorflow as tf

from tfps.training.batches import next_unless
from tfps.training.exchange import Exchange
from tfps.training.geo.drift import DRIFT_LANES
from tfps.training.order import Order
from tfps.training.push_ids import PushIds

WINDOWS = 4
"""Windows of a closure."""


class Overlapped:
    """The windows of one closure.

    Args:
        window: one without batches, a `Window` or a `WholeWindow`; the others are made like it.
        logs: what the logs are before the first.
        exchange: of the dense variables, which are pulled.
        push_ids: those of the pushes of rows and of dense variables after so many steps of the closure.
    """

    def __init__(
        self,
        window: Any,
        logs: Any,
        exchange: Exchange,
        push_ids: Callable[[tf.Tensor], PushIds],
    ) -> None:
        self._first, self._logs, self._exchange, self._push_ids = window, logs, exchange, push_ids

    def train(self, next_batch: Callable[[], Any], first: Any, order: Order) -> tuple[Any, Any, Any]:
        """Trains windows until the order is done or the input ends.

        Args:
            next_batch: gives the next batch as a `tf.experimental.Optional`, empty at the end of the input.
            first: the first one.
            order: of the chief.

        Returns:
            The steps there were, int64; the last one's logs; the drift of the windows, added up.
        """

        def body(state: Any) -> Any:
            done = state["done"] + state["count"]
            window, following = self._first.like(state["carried"]), self._first.like()
            # Beside each other: the exchange of the windows before and after ...
            pushed, drift = self._push(window, state)
            left = order.steps - done
            count = following.read(
                next_batch, next_unless(left <= 0, next_batch, first), tf.minimum(order.window, left)
            )
            pulled, fetched = following.pull(), self._exchange.fetch()
            # ... and the steps of this one.
            deltas, logs = window.steps(state["count"], state["start"])
            moved = self._exchange.deltas(state["dense"])
            begin = self._exchange.sums(fetched, moved)
            self._exchange.fill(begin)
            own = [_met(ids, before) for ids, before in zip(following.keys, window.keys, strict=True)]
            kept = window.kept(state["count"])
            start = [
                _added(rows, delta * window.scale(i), own[number], kept[i])
                for i, (number, rows, delta) in enumerate(zip(window.key_of, pulled, deltas, strict=True))
            ]
            base = [
                _added(rows, pushed[0][i], state["own"][window.key_of[i]])
                for i, rows in zip(window.capped, state["rows"], strict=True)
            ]
            return (
                {
                    **_read(following, count, pulled, own),
                    "done": done,
                    "start": start,
                    "dense": begin,
                    "fetched": fetched,
                    "before": {
                        "done": done,
                        "count": state["count"],
                        "sent": window.sent,
                        "deltas": deltas,
                        "base": base,
                        "moved": moved,
                        "dense_base": self._exchange.sums(state["fetched"], pushed[1]),
                    },
                    "logs": logs,
                    "drift": state["drift"] + drift,
                },
            )

        (last,) = tf.while_loop(
            lambda state: state["count"] > 0,
            body,
            (self._begun(next_batch, first, order),),
            parallel_iterations=1,
        )
        _, drift = self._push(self._first.like(last["carried"]), last)
        return last["done"], last["logs"], last["drift"] + drift

    def _begun(self, next_batch: Callable[[], Any], first: Any, order: Order) -> Any:
        """What the loop begins with: the first window, and none before it."""
        dense, window = self._exchange.pulled, self._first
        count = window.read(next_batch, first, tf.minimum(order.window, order.steps))
        pulled, nothing = window.pull(), tf.constant(0, tf.int64)
        sent, deltas = (_of_any_length(tensors) for tensors in window.nothing)
        none = _of_any_length([ids[:0] for ids in window.keys])
        still = {key: tf.zeros_like(value) for key, value in dense.items()}
        return {
            **_read(window, count, pulled, [(ids, ids) for ids in none]),
            "done": nothing,
            "start": _of_any_length(pulled),
            "dense": dense,
            "fetched": dense,
            "before": {
                "done": nothing,
                "count": nothing,
                "sent": sent,
                "deltas": deltas,
                "base": [deltas[i] for i in window.capped],
                "moved": still,
                "dense_base": dense,
            },
            "logs": self._logs,
            "drift": tf.zeros([DRIFT_LANES]),
        }

    def _push(self, window: Any, state: Any) -> tuple[tuple[list[Any], dict[Hashable, Any]], Any]:
        """Pushes the window before; returns what was added of rows and dense variables, and the drift.

        Of none before the first the push_id is not new, so the servers let it pass.
        """
        before = state["before"]
        of_rows, of_dense = self._push_ids(before["done"])
        pushed, drift = window.push(before["count"], before["sent"], before["deltas"], before["base"], of_rows)
        sent = self._exchange.send(before["moved"], before["dense_base"], of_dense)
        return (pushed, sent), tf.where(before["done"] > 0, drift, 0.0)


def _read(window: Any, count: Any, pulled: Sequence[Any], own: Any) -> dict[str, Any]:
    """A window that was read and pulled; `own` says which of its rows the one before it has as well."""
    return {
        "count": count,
        "carried": _of_any_length(window.carried),
        "rows": _of_any_length([pulled[i] for i in window.capped]),
        "own": own,
    }


def _met(ids: Any, before: Any) -> tuple[Any, Any]:
    """Where in `ids`, and where in `before`, the ids are that both have; each has an id once."""
    places = tf.unique(tf.concat([before, ids], 0)).idx[tf.size(before) :]
    here = tf.reshape(tf.where(places < tf.size(before)), [-1])
    return here, tf.cast(tf.gather(places, here), tf.int64)


def _added(rows: Any, deltas: Any, own: tuple[Any, Any], kept: Any = None) -> Any:
    """Rows with the deltas of those that both windows have; of averages a part is kept of what these rows were."""
    here, before = own
    deltas = tf.gather(deltas, before)
    if kept is not None:
        deltas -= (1 - kept) * tf.gather(rows, here)
    return tf.tensor_scatter_nd_add(rows, here[:, tf.newaxis], deltas)


def _of_any_length(values: Sequence[Any]) -> list[Any]:
    """Tensors of which the graph forgets the length, as it is another in each turn of a loop; arrays as they are."""
    return [
        value
        if isinstance(value, tf.TensorArray) or not value.shape.rank
        else tf.compat.v1.placeholder_with_default(value, [None, *value.shape[1:]])
        for value in values
    ]
