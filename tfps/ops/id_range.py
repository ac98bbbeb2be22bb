"""The one form of an id out of range: what the ops write, and the `IdRangeError` that it becomes.

An op cannot raise a Python class. It fails with a text, which TensorFlow passes on through as many servers as there are
between the op and the chief, quoted once more by each of them. So ops and their graph twins write the text of `pattern`
below, and `find` reads it back from whatever TensorFlow wrapped around it:

    id out of range: table 'item/embeddings' holds ids at least 0 and below 100. Received: 105 at position 31 of ids of
    shape [4,8]

Position 31 of [4, 8] is ids[3, 7]: example 3, position 7. Pure functions, any thread.
"""

import contextlib
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfps.errors import IdRangeError

# What stands between the parts: a space from the op, "] [" from an assertion in a graph, and "\nb" from an eager one.
_SEP = r"[\s\[\]'\"b]*"
_IDS = re.compile(
    r"id out of range: table \\*'(?P<table>[^'\\]*)\\*' holds ids at least 0 and below (?P<rows>\d+)\. "
    rf"Received:{_SEP}(?P<id>-?\d+){_SEP}at position{_SEP}(?P<position>\d+){_SEP}of ids of shape{_SEP}"
    r"(?P<shape>\d+(?:[ ,]+\d+)*)?"
)
# Contexts of a SkipGram, whose op draws the negatives beside them and knows no table.
_CONTEXTS = re.compile(
    r"`positives` must be at least 0 and below the rows, (?P<rows>\d+)\. "
    rf"Received:{_SEP}(?P<id>-?\d+){_SEP}as element{_SEP}(?P<position>\d+)"
)


def check_in_range(table: str, rows: int, ids: tf.Tensor) -> tf.Operation | None:
    """Asserts that every id is in [0, rows), with the text of the C++ op; returns the operation, None outside a graph.

    Args:
        table: the table's name.
        rows: of the table.
        ids: integers of any shape.
    """
    flat = tf.reshape(ids, [-1])
    outside = (flat < 0) | (flat >= rows)
    first = tf.where(outside)[:1]
    data = [
        f"id out of range: table '{table}' holds ids at least 0 and below {rows}. Received:",
        tf.gather_nd(flat, first),
        "at position",
        first[:, 0],
        "of ids of shape",
        tf.shape(ids),
    ]
    return tf.debugging.Assert(~tf.reduce_any(outside), data, summarize=16)


def find(text: str) -> IdRangeError | None:
    """The error that a text of TensorFlow's tells of; None where it is about something else."""
    if found := _IDS.search(text):
        shape = tuple(int(size) for size in re.findall(r"\d+", found["shape"] or ""))
        return _error(found["table"], int(found["rows"]), int(found["id"]), int(found["position"]), shape)
    if found := _CONTEXTS.search(text):
        return _error("contexts", int(found["rows"]), int(found["id"]), int(found["position"]), None)
    return None


@contextlib.contextmanager
def raised_eagerly() -> Iterator[None]:
    """Runs an op so that, outside a graph, an id out of range is an `IdRangeError` at once."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        ours = find(str(error))
        if ours is None:
            raise
        raise ours from None  # the op's text has nothing that the error of ours does not say


def _error(table: str, rows: int, bad: int, position: int, shape: tuple[int, ...] | None) -> IdRangeError:
    layer = table.rpartition("/")[0] or table
    place = (position,) if shape is None else tuple(int(index) for index in np.unravel_index(position, shape))
    where = f"ids[{', '.join(map(str, place))}]" if place else "the only id"
    if shape is not None:
        where += f" of ids of shape {list(shape)}"
    if len(place) > 1:  # a vector may be the ids of several batches, or of ragged rows: it has no example to name
        where += f": example {place[0]}, position {', '.join(map(str, place[1:]))}"
    message = (
        f"every id that layer {layer!r} looks up in table {table!r} must be at least 0 and below {rows}. "
        f"Received: {bad}, at {where}."
    )
    if bad < 0:
        # Keras adds `rows` to a negative id before it looks it up, so the op saw another number than the user gave.
        message += f" (An Embedding counts ids from -{rows} to -1 from the end: it may have been given {bad - rows}.)"
    return IdRangeError(message, table=table, layer=layer, id=bad, rows=rows, place=place, shape=shape)
