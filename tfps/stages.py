"""The stages of a step, as name scopes of graphs.

The code that traces a closure marks what it adds to the graph with the stage that it belongs to. A profile reads the
stage of an operation from its name (`tfps.diagnosis`). A name costs nothing when the graph runs.

Example: "while/body/_25/adagrad/tfps_push/TfpsApplyRows" is part of a push. What the model itself adds is in none of
these scopes: it is the forward and backward pass.
"""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

INPUT: Final = "tfps_input"
"""Reads a batch."""
IDS: Final = "tfps_ids"
"""Computes and deduplicates ids, and sorts them by server."""
ROWS: Final = "tfps_rows"
"""Requests rows, and gathers them on the servers."""
PUSH: Final = "tfps_push"
"""Sends the gradients of rows, and applies them on the servers."""
EXCHANGE: Final = "tfps_exchange"
"""Pulls and pushes dense variables, at both ends of a closure, and sends its result."""


def in_stage(stage: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Returns a decorator for a function that traces operations of a stage.

    Args:
        stage: one of the names above.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @functools.wraps(function)
        def traced(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            # Imported late: what reads profiles needs the names alone.
            import tensorflow as tf

            with tf.name_scope(stage):
                return function(*args, **kwargs)

        return traced

    return decorate
