"""Asynchronous steps with overlap: dense variables cross while steps are made.

A closure has several spans of steps. While span k is trained, the deltas of span k - 1 are pushed and then the dense
variables are pulled, and the steps wait for neither. At the end of span k its deltas are added to the values that came,
and span k + 1 begins with the sums. So a worker always sees its own updates, and with one worker the result is that of
one process. What others push it sees up to two spans later in place of one. The first pull and the last push of a
closure are waited for.
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
"""What the loop over spans carries: "steps", the state of the loop over steps; "dense", the values that the next span
begins with; "moved", the deltas of the last span, which are not pushed yet.
"""


def train_spans(
    turns: Turns, state: State, exchange: Exchange, push_id: Callable[[tf.Tensor], PushId], order: Order
) -> State:
    """Makes steps until the order is done or the input ends, and pushes what they changed.

    Args:
        turns: the loop over steps.
        state: before the first of them.
        exchange: of the dense variables, which are pulled.
        push_id: gives the id of the push of dense variables after so many steps of the closure.
        order: of the chief; its `window` is the steps of a span.

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
        # What was fetched has the deltas up to the span before; those of this one are added here.
        dense = exchange.sums(fetched, moved)
        # The steps read the copies, so these are what the next span begins with.
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
