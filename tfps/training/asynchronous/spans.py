"""Asynchronous steps with overlap: dense variables cross while steps are made.

A closure has several spans of steps. While span k is trained, the deltas of span k - 1 are pushed and then the dense
variables are pulled, and nobody waits for either; at its end what k has moved is added to what came, and k + 1 goes on
from there. So a worker misses nothing of its own, and with one worker the result is that of one process; what others
push it sees up to two spans later in place of one. The first pull and the last push of a closure wait.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfps.embedding.push_dedup import PushId
from tfps.training.exchange import Exchange
from tfps.training.order import Order
from tfps.training.turns import State, Turns

SPANS = 4
"""Spans of a closure."""


def train_spans(
    turns: Turns, state: State, exchange: Exchange, push_id: Callable[[Any], PushId | None], order: Order
) -> State:
    """Makes steps until the order is done or the input ends, and pushes what they changed.

    Args:
        turns: the loop over steps.
        state: before the first of them.
        exchange: of the dense variables, which are pulled.
        push_id: of the push of dense variables after so many steps of the closure.
        order: of the chief; its window is a span.

    Returns:
        The state after the last step.
    """

    def span(carried: Any) -> Any:
        state = carried["steps"]
        exchange.send(carried["moved"], {}, push_id(state["done"]))  # of none before the first: a push_id that was seen
        fetched = exchange.fetch()
        state = turns.train(state, tf.minimum(state["done"] + order.window, order.steps))
        moved = exchange.deltas(carried["dense"])
        dense = exchange.sums(fetched, moved)
        exchange.fill(dense)
        return ({"steps": state, "dense": dense, "moved": moved},)

    still = {key: tf.zeros_like(value) for key, value in exchange.pulled.items()}
    (last,) = tf.while_loop(
        lambda carried: carried["steps"]["batches"][0].has_value(),
        span,
        ({"steps": state, "dense": exchange.pulled, "moved": still},),
        parallel_iterations=1,
    )
    exchange.send(last["moved"], {}, push_id(last["steps"]["done"]))
    return last["steps"]
