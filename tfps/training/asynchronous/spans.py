"""Asynchronous steps with overlap: dense variables are exchanged while steps run.

A closure has several spans of steps. While span k is trained, the deltas of span k - 1 are pushed and then the dense
variables are pulled; the steps wait for neither. At the end of span k its deltas are added to the pulled values, and
span k + 1 starts from the sums. A worker therefore always sees its own updates, and with one worker the result equals
training in one process. It sees the pushes of other workers up to two spans late instead of one. Only the first pull
and the last push of a closure make the worker wait.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.exchange import Exchange
from tfps.training.order import Order
from tfps.training.turns import State, Turns

SPANS = 4
"""Spans of a closure."""


Carried: TypeAlias = dict[str, Any]
"""The state of the loop over spans.

"steps": the state of the loop over steps. "dense": the values that the next span starts from. "moved": the deltas of
the last span, which are not pushed yet.
"""


def train_spans(
    turns: Turns, state: State, exchange: Exchange, push_id: Callable[[tf.Tensor], PushId], order: Order
) -> State:
    """Runs steps until the order is done or the input ends, and pushes the deltas.

    Args:
        turns: the loop over steps.
        state: the state of that loop before the first step.
        exchange: the exchange of the dense variables; they have been pulled.
        push_id: returns the id of the push of dense variables after the given number of steps of the closure.
        order: the order of the chief; its `window` is the number of steps in a span.

    Returns:
        The state after the last step.
    """

    def span(carried: Carried) -> tuple[Carried]:
        state = carried["steps"]
        # Before the first span there is nothing to push: the id, of 0 steps, is never new, so servers ignore it.
        exchange.send(carried["moved"], {}, push_id(state["done"]))
        fetched = exchange.fetch()
        state = turns.train(state, tf.minimum(state["done"] + order.window, order.steps))
        moved = exchange.deltas(carried["dense"])
        # The fetched values include the deltas up to the previous span. Those of this span are added here.
        dense = exchange.sums(fetched, moved)
        # The steps read the copies, so the next span must find its values there.
        exchange.fill(dense)
        return ({"steps": state, "dense": dense, "moved": moved},)

    no_deltas = exchange.no_deltas()
    # One span at a time: all spans use the same copies on the worker.
    (last,) = tf.while_loop(
        lambda carried: carried["steps"]["batches"][0].has_value(),
        span,
        ({"steps": state, "dense": exchange.pulled, "moved": no_deltas},),
        parallel_iterations=1,
    )
    # The deltas of the last span have not been pushed by a later one.
    exchange.send(last["moved"], {}, push_id(last["steps"]["done"]))
    return last["steps"]
