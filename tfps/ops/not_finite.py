"""Finds gradients that are not finite, in a step; parses the message on the chief.

Threading: any. Cost: one pass over the gradients of a step.
"""

import re
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfps import step
from tfps.errors import NotFiniteError

_MOST = 8
"""The most variables, and the most rows of each table, that a message names."""

_MESSAGE = re.compile(
    r"a gradient is not finite, at step\] \[(?P<step>-?\d+)\] \[of the variables (?P<names>[^\]]*)\] "
    r"\[(?P<bad>[\d ]*)\.{0,3}\](?P<rows>(?: \[rows of \d+\] \[[\d .]*\])*)"
    r"(?: \[(?P<saved>the step is [^\]]*)\])?"
)
_ROWS = re.compile(r"\[rows of (\d+)\] \[([\d .]*)\]")


def describe(
    names: Sequence[str],
    finite: tf.Tensor,
    rows: Mapping[int, tf.Tensor],
    at_step: tf.Tensor,
    saved: tf.Tensor | None = None,
) -> list[str | tf.Tensor]:
    """Returns what a message says, for `tf.debugging.Assert` and `tf.print`.

    Args:
        names: the name of each variable.
        finite: whether the gradient of each variable is finite, bool [n].
        rows: for the number of a table among the variables, the ids of its rows that are not finite, int64 [m].
        at_step: the number of the step, a scalar.
        saved: says where the step is saved, to be run again: a string scalar, "the step is ...", or empty; None if
            nothing saves it.
    """
    message = [
        "a gradient is not finite, at step",
        at_step,
        f"of the variables {'|'.join(names)}",
        tf.where(~finite)[:_MOST, 0],
    ]
    for number, ids in rows.items():
        message += [f"rows of {number}", ids[:_MOST]]
    return message if saved is None else [*message, saved]


def assert_finite(finite: tf.Tensor, message: Sequence[str | tf.Tensor]) -> tf.Operation | None:
    """Fails with a message unless all are finite.

    Args:
        finite: bool [n].
        message: the result of `describe`.

    Returns:
        The operation, or None in eager mode.
    """
    # On a card an assertion does nothing.
    with step.on_host():
        return tf.debugging.Assert(tf.reduce_all(finite), message, summarize=_MOST)


def find(text: str, worker: int | None) -> NotFiniteError | None:
    """Returns the error that a message of TensorFlow reports; None if the message is about something else.

    Args:
        text: the message.
        worker: the number of the worker; None if the step did not run on one.
    """
    found = _MESSAGE.search(text)
    if found is None:
        return None
    names = found["names"].split("|")
    rows = {
        names[int(number)]: [int(one) for one in ids.split() if one.isdigit()]
        for number, ids in _ROWS.findall(found["rows"])
    }
    bad = [names[int(number)] for number in found["bad"].split()]
    told = [f"{name!r}, rows {rows[name]}" if rows.get(name) else repr(name) for name in bad]
    # Example: the variable "ctr/item/embeddings" belongs to the layer "ctr/item".
    layer = bad[0].rpartition("/")[0] or bad[0]
    where = "" if worker is None else f" of worker {worker}"
    saved = "" if found["saved"] is None else f" T{found['saved'][1:]}."
    return NotFiniteError(
        f"a gradient is NaN or infinite at step {found['step']}{where}, first in layer {layer!r}: {'; '.join(told)}. "
        f'The step was not applied (on_nan="stop").{saved}',
        worker=worker,
        step=int(found["step"]),
        layer=layer,
        variables=tuple(bad),
        rows={name: tuple(ids) for name, ids in rows.items() if ids},
    )
